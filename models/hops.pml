/* Two hops of a CONSUMING end, and the death of an owner on the way.

   End 0 of port P goes from A over one carrier to B, and from B over another to C. X has end 1, and posts messages,
   each with a packet, into a lane of few places; it sleeps when there is no room. One of A, B and C may be killed
   between any two steps. Each owner reads some messages, may hold room back (messages that it still uses), may sleep,
   and then moves on.

   Shown: at most one process is the owner at any time; each message is received once, in order, with its packet, by the
   owner at that time; X always finds room again, or learns that the end has gone; `Closed` comes after the last
   message; the end never stays in a carrier that has ended.

   Fails with: UNPUBLISHED SILENT_PUBLISH STALE_CAPSULE NO_LOOK CLOSE_ON_MOVE
   Fails with: CARRIER_FIRST NO_DRAIN EARLY_CLOSE NO_LAST_LOOK DEAF PREFETCH
     UNPUBLISHED     the mover of the end does not publish how far it has read
     SILENT_PUBLISH  the mover publishes without looking for a sender that sleeps
     STALE_CAPSULE   B passes on the capsule that it received, instead of its own position
     NO_LOOK         a new owner sleeps before its first look at the ring
     CLOSE_ON_MOVE   the mover announces a close when it drops what is left of the end
     CARRIER_FIRST   the carrier's record is committed before the packet has left
     NO_DRAIN        at a carrier's Closed its packets stay where they are
     EARLY_CLOSE     the mover's copies are closed before the packet has left
     NO_LAST_LOOK    a reader that sees a carrier hang up does not look at its lane once more
     DEAF            a sleep for room does not end when the peer goes
     PREFETCH        an owner takes a packet out before it consumes the record, and then moves */
#ifndef N
#define N 3                       /* messages */
#endif
#ifndef PLACES
#define PLACES 1                  /* of the lane */
#endif

/* the lane from X, and what is beside it */
byte tail, head;
bool message_flag, bell, room_flag, reader_gone;
chan packets = [PLACES + 1] of { byte };
/* references to the ends: by A, the first carrier's queue, B, the second's, C; by X */
bool a0 = 1, q0, b0, r0, c0, x1 = 1;
#define GONE0 (!a0 && !q0 && !b0 && !r0 && !c0)
#define GONE1 (!x1)
/* the carriers: A to B, and B to C */
bool first_a = 1, first_b = 1, first_record, second_b = 1, second_c = 1, second_record;
byte first_cap, second_cap;
/* ghosts */
byte got, owner;                  /* owner: 0 none, 1 A, 2 B, 3 C */
bool left, told;                  /* an owner announced a close; X was told that the end has gone */
bool kill_a, kill_b, kill_c;

active proctype killer() {
    if :: kill_a = 1 :: kill_b = 1 :: kill_c = 1 :: true fi
}

inline wake_sender() { d_step { f = room_flag; room_flag = 0 } }    /* a futex sleeper: the word changes */

inline release() { head = position; released = position; wake_sender() }

/* Reads until Closed (is_over), or until the owner has had enough. */
inline own(who, may_move) {
    d_step { assert(owner == 0 && !told); owner = who };
#if NO_LOOK
    if
    :: who != 1 -> bell = 0; message_flag = 1; (bell || GONE1)
    :: who == 1
    fi;
#endif
    do
    :: position < tail ->
        if :: atomic { packets ? p -> assert(p == position) } :: empty(packets) -> assert(false) fi;
        d_step { assert(position == got); position++; got++; p = 0 };
        if
        :: release()
        :: true                                          /* still in use: released later */
        fi
    :: position == tail && released != position -> release()
    :: position == tail && released == position ->
        bell = 0; hung = GONE1; message_flag = 1;
        if
        :: position < tail
        :: position == tail && hung -> is_over = 1; break
        :: position == tail && !hung -> if :: (bell || GONE1) :: may_move -> break fi
        fi
    :: may_move -> break
    od;
    if
    :: is_over -> assert(got == tail)
    :: !is_over
    fi
}

/* Leaves the lane in a state in which another can go on. */
inline settle() {
#if PREFETCH
    if :: packets ? p :: empty(packets) fi;
#endif
#if SILENT_PUBLISH
    head = position; released = position;
#elif !UNPUBLISHED
    release();
#endif
    owner = 0
}

/* Announces its close, as one that keeps the end does. */
inline leave() { reader_gone = 1; wake_sender() }

active proctype A() {
    byte position, released, p; bool f, hung, is_over;
    {
        own(1, true);
        if
        :: is_over
        :: !is_over ->
            settle();
#if CARRIER_FIRST
            first_record = 1;
#endif
#if EARLY_CLOSE
            a0 = 0;
#endif
            if
            :: d_step { first_b -> q0 = 1; first_cap = position; position = 0; released = 0 };
                first_record = 1
            :: !first_b -> owner = 1; left = 1; leave()  /* handed back, and then dropped */
            fi
        fi
    } unless { kill_a };
    skip;
    d_step { a0 = 0; first_a = 0; if :: owner == 1 -> owner = 0 :: else fi }
}

active proctype B() {
    byte position, released, p; bool f, hung, is_over, came;
    {
        if
        :: first_record -> came = 1
#if NO_LAST_LOOK
        :: !first_a
#else
        :: !first_a -> came = first_record
#endif
        fi;
        if
        :: came ->
            assert(q0);
            d_step { b0 = 1; q0 = 0; position = first_cap; released = position };
            own(2, true);
            if
            :: is_over
            :: !is_over ->
                settle();
#if STALE_CAPSULE
                position = first_cap;
#endif
#if CARRIER_FIRST
                second_record = 1;
#endif
#if EARLY_CLOSE
                b0 = 0;
#endif
                if
                :: d_step { second_c -> r0 = 1; second_cap = position; position = 0; released = 0 };
                    second_record = 1
#if CLOSE_ON_MOVE
                    ; leave()
#endif
                :: !second_c -> owner = 2; left = 1; leave()
                fi
            fi
        :: !came ->
            assert(!first_record);
#if NO_DRAIN
            second_b = 0; goto kept                      /* the carrier stays open, with what is in it */
#else
            q0 = 0
#endif
        fi
    } unless { kill_b };
    skip;
    d_step { b0 = 0; q0 = 0; first_b = 0; second_b = 0; if :: owner == 2 -> owner = 0 :: else fi };
kept: skip
}

active proctype C() {
    byte position, released, p; bool f, hung, is_over, came;
    {
        if
        :: second_record -> came = 1
#if NO_LAST_LOOK
        :: !second_b
#else
        :: !second_b -> came = second_record
#endif
        fi;
        if
        :: came ->
            assert(r0);
            d_step { c0 = 1; r0 = 0; position = second_cap; released = position };
            own(3, false)
        :: came ->                                       /* the same, but it leaves early */
            assert(r0);
            d_step { c0 = 1; r0 = 0; position = second_cap; released = position };
            own(3, true);
            left = 1; leave()
        :: !came ->
            assert(!second_record);
#if NO_DRAIN
            goto kept
#else
            r0 = 0
#endif
        fi
    } unless { kill_c };
    skip;
    d_step { c0 = 0; r0 = 0; second_c = 0; if :: owner == 3 -> owner = 0 :: else fi };
kept: skip
}

active proctype X() {
    byte position, seen; bool f;
    do
    :: position == N || reader_gone || GONE0 -> break
    :: position < N && position - seen < PLACES ->
        packets ! position;                              /* first the packet, then the record */
        d_step { position++; tail = position };
        d_step { f = message_flag; message_flag = 0 };
        if :: f -> bell = 1; f = 0 :: !f fi
    :: position < N && position - seen == PLACES && seen != head -> seen = head
    :: position < N && position - seen == PLACES && seen == head ->
        room_flag = 1;
        if
        :: seen != head || reader_gone || GONE0
#if DEAF
        :: seen == head && !reader_gone && !GONE0 -> (!room_flag)
#else
        :: seen == head && !reader_gone && !GONE0 -> (!room_flag || GONE0)
#endif
        fi;
        room_flag = 0
    od;
    skip;
    d_step { assert(!reader_gone || left); told = GONE0 };
    if
    :: true                                              /* goes at once */
    :: true -> (head == position || reader_gone || GONE0)   /* or when all was read, or the reader has gone */
    fi;
    d_step { told = told || GONE0; x1 = 0 }
}

active proctype check() {
    timeout;
    assert(!a0 && !q0 && !b0 && !r0 && !c0 && !x1 && owner == 0)
}
