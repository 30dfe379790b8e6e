/* A PRODUCING end moves, while its lane holds unread records with packets beside them.

   End 0 of port P is A's, and moves over a carrier to B, which continues to post. End 1 is X's, which reads. The lane
   has three small segments. With CAPPED, A has just left an empty segment 0 by a jump that X has not read, and may enter
   it again up to that jump. A post plans, writes, sends its packet, stages, commits, wakes: a kill of A, B or X can come between
   any two of these steps, and of those of the move. A post may also be given up once, after its packet has left (an
   orphan in front of what the next owner sends).

   Shown: X receives every message that was published, once and in order, each with its own packet, and then `Closed`;
   nothing that was posted before the move is overwritten or lost; an end has one owner, or it is closed and X is told;
   no process stays asleep; no packet and no end is left in a queue without a reader.

   Passes with: CAPPED
   Fails with: RECORD_FIRST UNSETTLED NO_SEQUENCE NO_ENTERED NO_CAP CAP_LOST
   Fails with: OTHERS_FREE TAKE_FIRST LEAVE_ORPHANS NO_DRAIN EARLY_CLOSE CARRIER_FIRST
     RECORD_FIRST   the record is committed before its packet is sent
     UNSETTLED      what a burst has staged is not committed before the end moves
     NO_SEQUENCE    the capsule does not contain the number of packets; the new owner counts from 0
     NO_ENTERED     the capsule does not say where the current segment was entered
     OTHERS_FREE    the capsule does not say when each segment was left; the new owner assumes that the others are free
     NO_CAP         a segment of which only the jump is unread is entered as if it were free
     CAP_LOST       the new owner takes the current segment for one that was free when it was entered
     TAKE_FIRST     the reader takes the packet in front, even one older than the record says
     LEAVE_ORPHANS  the reader does not empty its packet queue at Closed
     NO_DRAIN       B does not empty the carrier's packet queue at the carrier's Closed
     EARLY_CLOSE    A closes its own copies before the packet of the move has left
     CARRIER_FIRST  A commits the carrier's record before the packet of the move has left */
#ifndef N
#define N 3                       /* messages */
#endif
#define SEGMENTS 3
#if NO_CAP || CAP_LOST
#define CAPPED 1
#endif
#if CAPPED
#define W 3                       /* units in a segment; a record takes one, one is kept for a control record */
#define FIRST 3                   /* A's first position: after a jump at index 2 of segment 0, into segment 1 */
#define MAY_HOP (next == 0)
#else
#define W 2
#define FIRST 0
#define MAY_HOP (!hopped)
#endif
#define JUMP 100                  /* + the segment in which to go on */
#define BESIDE(m) ((m) != 1)      /* the second message has no packet */

/* the lane, and what is beside it */
#if CAPPED
byte mem[SEGMENTS * W] = { 0, 0, 101, 0, 0, 0, 0, 0, 0 };   /* 101: JUMP + 1 */
byte tail = 3, head = 2;
#else
byte mem[SEGMENTS * W], tail, head;
#endif
byte number[SEGMENTS * W], mark[SEGMENTS * W];
bool message_flag, room_flag, bell;
chan packets = [N + 1] of { byte, byte };       /* sequence; a mark that tells packets apart (ghost) */
/* references to the ends: by A, by the carrier's queue, by B; by X */
bool a0 = 1, q0, b0, x1 = 1;
#define GONE0 (!a0 && !q0 && !b0)
#define GONE1 (!x1)
/* the carrier */
bool carrier_a = 1, carrier_b = 1, carrier_record;
byte cap_position, cap_segment, cap_entered, cap_packets, cap_left[SEGMENTS];
/* ghosts */
byte next, promised, got, marks, owner;
bool gave_up, hopped, x_killed, told;      /* told: X has said Closed */
bool kill_a, kill_b, kill_x;

#define LOW (seen > entered -> seen : entered)
#if NO_CAP
#define USABLE(k) W
#else
#define USABLE(k) (seen >= left[k] -> W : stop[k])      /* until the last jump out of k is read: up to it */
#endif
#define HERE (position - LOW + 2 <= USABLE(segment))
#define OPEN(k) (segment != k && seen + 1 >= left[k] && 2 <= USABLE(k))
#define ROOM (HERE || OPEN(0) || OPEN(1) || OPEN(2))
#define CELL (segment * W + (position - entered) % W)

inline publish() {                                       /* one store, then look for a sleeper */
    if
    :: staged ->
        d_step { tail = position; promised = promised + staged; staged = 0 };
        d_step { f = message_flag; message_flag = 0 };
        if :: f -> bell = 1; f = 0 :: !f fi
    :: !staged
    fi
}
inline tidy() {                                          /* fewer states: what is not read any more */
    position = 0; segment = 0; entered = 0; packets_sent = 0; seen = 0; staged = 0; to = 0; at = 0; f = 0;
    left[0] = 0; left[1] = 0; left[2] = 0; stop[0] = 0; stop[1] = 0; stop[2] = 0
}
inline packet() { d_step { marks++; packets ! packets_sent, marks; packets_sent++ } }

inline produce() {
    if :: !ROOM -> seen = head :: ROOM fi;
    if
    :: !ROOM ->                                          /* wait for room */
        publish();
        room_flag = 1;
        seen = head;
        if :: ROOM :: !ROOM -> (!room_flag || GONE1) fi;
        room_flag = 0
    :: ROOM ->
        if :: BESIDE(next) -> publish() :: !BESIDE(next) fi;
        atomic {
            if                                           /* plan: no cursor moves */
            :: HERE -> to = segment
            :: OPEN(0) && (!HERE || MAY_HOP) -> to = 0
            :: OPEN(1) && (!HERE || MAY_HOP) -> to = 1
            :: OPEN(2) && (!HERE || MAY_HOP) -> to = 2
            fi;
            d_step {                                     /* write the record where it will stand */
                at = (to == segment -> CELL : to * W);
                assert(mem[at] < JUMP);
                mem[at] = next; number[at] = packets_sent; mark[at] = marks + 1
            }
        };
#if !RECORD_FIRST
        if :: BESIDE(next) -> packet() :: !BESIDE(next) fi;
#endif
        if
        :: d_step { BESIDE(next) && !gave_up -> gave_up = 1; to = 0; at = 0 }   /* given up; this end lives on */
        :: true ->
            d_step {                                     /* stage, the jump that leads there included */
                if
                :: to != segment ->
                    if :: HERE -> hopped = 1 :: else fi;
                    assert(mem[CELL] < JUMP);            /* not over a jump that X has not read */
                    stop[segment] = (position - entered) % W;
                    mem[CELL] = JUMP + to;
                    position++; left[segment] = position;
                    segment = to; entered = position
                :: else
                fi;
                assert(position - LOW + 2 <= USABLE(segment));
                position++; staged++; next++; to = 0; at = 0
            };
            if
            :: publish()
            :: !BESIDE(next - 1)                         /* stays staged: a burst */
            fi;
#if RECORD_FIRST
            if :: BESIDE(next - 1) -> packet() :: !BESIDE(next - 1) fi;
#endif
        fi
    fi
}

active proctype killer() {
    if :: kill_a = 1 :: kill_b = 1 :: kill_x = 1 :: true fi
}

active proctype A() {
    byte position, segment, entered, packets_sent, seen, staged, to, at, left[SEGMENTS], stop[SEGMENTS];
    bool f;
    d_step { position = FIRST; entered = FIRST; seen = head; left[0] = FIRST;
             if :: FIRST -> segment = 1; stop[0] = 2 :: !FIRST fi };
    {
        owner = 1;
        do
        :: next < N && !GONE1 -> produce()
        :: break                                         /* moves, wherever it stands */
        od;
#if UNSETTLED
        skip;
        d_step { promised = promised + staged; staged = 0 };
#else
        publish();
#endif
        owner = 0;
#if CARRIER_FIRST
        carrier_record = 1;
#endif
#if EARLY_CLOSE
        a0 = 0;
#endif
        if
        :: d_step { carrier_b -> q0 = 1; cap_position = position; cap_segment = segment;
                    cap_entered = entered; cap_packets = packets_sent;
                    cap_left[0] = left[0]; cap_left[1] = left[1]; cap_left[2] = left[2];
                    tidy() };
            carrier_record = 1;
            a0 = 0
        :: !carrier_b -> owner = 1                       /* refused: it is A's again, and is dropped below */
        fi
    } unless { kill_a };
    skip;
    d_step { a0 = 0; carrier_a = 0; if :: owner == 1 -> owner = 0 :: else fi; tidy() }
}

active proctype B() {
    byte position, segment, entered, packets_sent, seen, staged, to, at, left[SEGMENTS], stop[SEGMENTS];
    bool f, came;
    {
        if
        :: carrier_record -> came = 1
        :: !carrier_a -> came = carrier_record           /* the last look, after the hang-up */
        fi;
        if
        :: came ->
            assert(q0 && owner == 0 && !told);
            d_step {
                b0 = 1; q0 = 0; owner = 2;
                position = cap_position; segment = cap_segment; entered = cap_entered; seen = head;
                packets_sent = cap_packets;
                /* stop[] does not move: no room up to a jump of A */
                left[0] = cap_left[0]; left[1] = cap_left[1]; left[2] = cap_left[2];
                cap_position = 0; cap_segment = 0; cap_entered = 0; cap_packets = 0;
                cap_left[0] = 0; cap_left[1] = 0; cap_left[2] = 0;
#if NO_ENTERED
                entered = position;
#endif
#if NO_SEQUENCE
                packets_sent = 0;
#endif
#if CAP_LOST
                left[segment] = 0;
#endif
#if OTHERS_FREE
                left[0] = 0; left[1] = 0; left[2] = 0;
#endif
            };
            do
            :: next < N && !GONE1 -> produce()
            :: break
            od;
            publish();
            if :: true :: true -> (got == promised || GONE1) fi   /* goes at once, or not before X has all */
        :: !came ->
#if NO_DRAIN
            goto kept                                    /* the carrier stays open, with what is in it */
#else
            q0 = 0
#endif
        fi
    } unless { kill_b };
    skip;
    d_step { b0 = 0; carrier_b = 0; q0 = 0; if :: owner == 2 -> owner = 0 :: else fi; tidy() };
kept: skip
}

active proctype X() {
    byte position = head, segment, entered, seen = head, v, sequence, ghost;
    bool hung;
    {
        do
        :: position < seen ->
            if
            :: d_step { mem[CELL] >= JUMP -> v = CELL; segment = mem[v] - JUMP; mem[v] = 0;
                        position++; entered = position; v = 0 }
            :: mem[CELL] < JUMP ->
                d_step { v = mem[CELL]; assert(v == got && got < promised) };
                if
                :: BESIDE(v) ->                          /* only now, and those before it have no record */
                    do
                    :: atomic { nempty(packets) -> packets ? sequence, ghost };
                        if
#if !TAKE_FIRST
                        :: sequence < number[CELL] -> skip
                        :: sequence >= number[CELL] ->
#else
                        :: true ->
#endif
                            assert(sequence == number[CELL] && ghost == mark[CELL]); break
                        fi
                    :: empty(packets) -> assert(false)
                    od
                :: !BESIDE(v)
                fi;
                skip;
                d_step { v = CELL; mem[v] = 0; number[v] = 0; mark[v] = 0;   /* what was read does not matter */
                         position++; got++; v = 0; sequence = 0; ghost = 0 };
                head = position;
                room_flag = 0                             /* a futex sleeper wakes as its word changes */
            fi
        :: position == seen && seen < tail -> seen = tail
        :: position == seen && seen == tail ->
            if
            :: head != position -> head = position; room_flag = 0
            :: head == position
            fi;
            bell = 0; hung = GONE0; message_flag = 1;     /* drain, ask, raise, look again, sleep */
            if
            :: position < tail
            :: position == tail && hung -> break
            :: position == tail && !hung -> (bell || GONE0)
            fi
        od;
        skip;
        d_step { assert(got == promised); told = 1 };
#if !LEAVE_ORPHANS
        do :: packets ? sequence, ghost :: empty(packets) -> break od
#endif
    } unless { kill_x };
    skip;
    d_step { x1 = 0; x_killed = kill_x }
}

active proctype check() {
    timeout;
    assert(!a0 && !q0 && !b0 && !x1 && owner == 0 && (x_killed || empty(packets)))
}
