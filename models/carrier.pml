/* A carrier that moves itself, while a port is unread in its queue.

   S has the sending end of carrier K and sends two items over it: a descriptor, and end 0 of port P, in either order. R
   has K's receiving end (end 0 of K), reads none, one or both, and moves it over carrier L to T, which continues. X has
   end 1 of P and posts messages with packets all the while. S, R or T may be killed between any two steps. The kernel:
   an end closes when neither a process nor a queue refers to it; a queue is freed with the end that it belongs to, and
   what is in it loses that reference.

   Shown: what was in K's queue arrives with K, once, in order; P's end 0 has one owner at any time, which receives all
   of X's messages, or it is closed, and X is told; `Closed` of K comes after everything that S has committed; no item
   is left in a queue without a reader; no process sleeps for ever.

   Fails with: PREFETCH NO_PLACE NO_LOOK RECORD_FIRST NO_DRAIN_K NO_DRAIN_L
   Fails with: NO_CASCADE INNER_PLACE
     PREFETCH      R takes a packet out of K's queue before it consumes the record, and then moves K
     NO_PLACE      K's capsule does not say how far R has read
     NO_LOOK       T sleeps on K's doorbell before its first look at the ring
     RECORD_FIRST  S commits the record before its packet has left
     NO_DRAIN_K    T leaves K's packets where they are when K has ended
     NO_DRAIN_L    T leaves L's packets where they are when L has ended
     NO_CASCADE    a kernel that does not free what is in the queue of an end that closes
     INNER_PLACE   P's capsule, inside K's queue, does not say how far S has read */
#ifndef N
#define N 2                       /* messages on P */
#endif
#define PORT 2
#define DESCRIPTOR 1
#define ITEM(i) ((i) == port_at -> PORT : DESCRIPTOR)

/* K: its lane, its end 0's queue and sleeper */
byte k_tail;
bool k_flag, k_bell;
chan k_packets = [2] of { byte };
/* L, from R to T: one record */
bool l_record;
byte l_cap;
/* P: the lane from X, and the queue of end 0 */
byte p_tail, p_cap;
chan p_packets = [N] of { byte };
/* references: P's end 0 by S, by K's queue, by R and T; K's end 0 by R, by L's queue, by T; the others have one holder */
bool s_p = 1, k_p, r_p, t_p;
bool r_k = 1, l_k, t_k;
bool s_k = 1, r_l = 1, t_l = 1, x_p = 1;
#define GONE_P (!s_p && !k_p && !r_p && !t_p)
#define GONE_K (!r_k && !l_k && !t_k)
/* ghosts */
byte port_at, k_got, p_got, owner;
bool told;
bool kill_s, kill_r, kill_t;

inline cascade() {                                       /* in the step that drops a reference to K's end 0 */
#if !NO_CASCADE
    if :: GONE_K -> k_p = 0 :: else fi
#else
    skip
#endif
}

active proctype killer() {
    if :: kill_s = 1 :: kill_r = 1 :: kill_t = 1 :: true fi
}

/* Reads P's lane, as its owner; to the end, or as long as it likes. */
inline read_port(may_stop) {
    do
    :: at < p_tail ->
        assert(nempty(p_packets));
        atomic { p_packets ? item -> assert(item == at && at == p_got); at++; p_got++; item = 0 }
    :: at == p_tail && !x_p -> if :: at < p_tail :: at == p_tail -> break fi
    :: may_stop -> break
    od
}

active proctype S() {
    byte i, at, item; bool f;
    {
        if :: port_at = 0 :: port_at = 1 fi;
        owner = 1;
        read_port(true);
        owner = 0;
        do
        :: i == 2 -> break
        :: i < 2 ->
#if RECORD_FIRST
            k_tail = i + 1;
#endif
            if
            :: d_step { !GONE_K ->
                    k_packets ! ITEM(i);
                    if :: ITEM(i) == PORT -> k_p = 1; p_cap = at; at = 0 :: else fi }
            :: GONE_K -> break                           /* refused: what was to move is dropped below */
            fi;
#if !RECORD_FIRST
            k_tail = i + 1;
#endif
            if :: ITEM(i) == PORT -> s_p = 0 :: ITEM(i) != PORT fi;
            d_step { i++; f = k_flag; k_flag = 0 };
            if :: f -> k_bell = 1; f = 0 :: !f fi
        od;
        if :: true :: true -> (k_got == 2 || GONE_K) fi  /* closes K at once, or not before all was read */
    } unless { kill_s };
    skip;
    d_step { s_p = 0; s_k = 0; if :: owner == 1 -> owner = 0 :: else fi; i = 0; at = 0 }
}

/* Takes the next thing out of K; `mine` is who's reference to P that makes. */
inline take(mine) {
    if
    :: atomic { k_packets ? item ->
            assert(place == k_got && item == ITEM(place));
            if :: item == PORT -> mine = 1; k_p = 0; at = p_cap; p_cap = 0 :: else fi;
            place++; k_got++ }
    :: empty(k_packets) -> assert(false)
    fi
}

active proctype R() {
    byte place, at, item; bool hung;
    {
        do
        :: place < k_tail -> take(r_p); item = 0
        :: place == k_tail ->
            k_bell = 0; hung = !s_k; k_flag = 1;
            if
            :: place < k_tail
            :: place == k_tail && hung -> break
            :: place == k_tail && !hung -> if :: (k_bell || !s_k) :: break fi
            fi
        :: break
        od;
#if PREFETCH
        if :: k_packets ? item -> item = 0 :: empty(k_packets) fi;
#endif
        if
        :: d_step { t_l -> l_k = 1; l_cap = place };
            l_record = 1
        :: !t_l
        fi;
        d_step { r_k = 0; place = 0; cascade() };
        if
        :: r_p ->
            d_step { assert(owner == 0 && !told); owner = 2 };
#if INNER_PLACE
            at = 0;
#endif
            read_port(false);
            assert(at == p_tail)
        :: !r_p
        fi
    } unless { kill_r };
    skip;
    d_step { r_p = 0; r_k = 0; r_l = 0; if :: owner == 2 -> owner = 0 :: else fi; cascade(); place = 0; at = 0 }
}

active proctype T() {
    byte place, at, item; bool hung, came;
    {
        if
        :: l_record -> came = 1
        :: !r_l -> came = l_record
        fi;
        if
        :: came ->
            assert(l_k);
            d_step { t_k = 1; l_k = 0;
#if !NO_PLACE
                place = l_cap;
#endif
                l_cap = 0 };
#if NO_LOOK
            k_bell = 0; k_flag = 1; (k_bell || !s_k);
#endif
            do
            :: place < k_tail ->
                take(t_p);
                if
                :: item == PORT ->
                    d_step { item = 0; assert(owner == 0 && !told); owner = 3 };
#if INNER_PLACE
                    at = 0;
#endif
                    read_port(false);
                    assert(at == p_tail);
                    d_step { t_p = 0; owner = 0; at = 0 }
                :: item != PORT -> item = 0
                fi
            :: place == k_tail ->
                k_bell = 0; hung = !s_k; k_flag = 1;
                if
                :: place < k_tail
                :: place == k_tail && hung -> break
                :: place == k_tail && !hung -> (k_bell || !s_k)
                fi
            od;
            /* Closed: K is kept, as users do, but what is in it is freed */
#if !NO_DRAIN_K
            do
            :: atomic { k_packets ? item -> if :: item == PORT -> k_p = 0 :: else fi; item = 0 }
            :: empty(k_packets) -> break
            od;
#endif
            (!x_p)
        :: !came ->
            assert(!l_record);
#if !NO_DRAIN_L
            d_step { l_k = 0; cascade() };
#endif
            (!x_p)                                       /* L is kept as well */
        fi
    } unless { kill_t };
    skip;
    d_step { t_p = 0; t_k = 0; l_k = 0; t_l = 0; if :: owner == 3 -> owner = 0 :: else fi; cascade(); place = 0; at = 0 }
}

active proctype X() {
    do
    :: p_tail == N || GONE_P -> break
    :: p_tail < N && !GONE_P -> p_packets ! p_tail; p_tail++
    od;
    if
    :: true                                              /* goes at once */
    :: true -> (p_got == p_tail || GONE_P)               /* or when all was read, or the end has gone */
    fi;
    d_step { told = GONE_P; x_p = 0 }
}

active proctype check() {
    timeout;
    assert(!s_p && !k_p && !r_p && !t_p && !r_k && !l_k && !t_k && !x_p && owner == 0)
}
