/* Cycles: two ports in each other's queues, and a third port that is in one of these queues.

   Ports P, Q, R. At the start, A has end 0 of P and of R, and end 1 of Q; B has end 0 of Q and end 1 of P; Z has end 1
   of R. What is posted to end 1 is in end 0's queue. A may post P and R to Q, B may post Q and R to P (a port cannot be
   posted to its own pair: that is refused). Both may take what has arrived at an end that they hold, drop what they
   hold, or be killed between any two steps. So P can get into Q's queue while Q is in P's, with R in either, and no
   process can reach them any more. A and B then wait for the hang-up of what they have posted, Z for that of R.

   The kernel, a separate process that may come late: it closes an end that nothing refers to, with its queue. Its
   collector closes ends that only refer to each other, at some later time: Linux (6.18, seen in a probe) runs it when
   some socket of this family closes, anywhere on the machine, and not because a cycle was created. Closing a descriptor
   whose socket is still in flight is not such an event. The model assumes that such an event comes.

   Shown: in the end no port is unowned and open, and every peer was told; what a record announces is there as long as a
   process can still read it; an end has at most one owner.

   Fails with: NO_COLLECTOR EAGER_COLLECTOR NO_RIDERS NO_HANG_UP RECORD_FIRST NO_OTHER_CLOSE
     NO_COLLECTOR     only counts of references
     EAGER_COLLECTOR  ends that no process holds directly are collected, though one could still take them out
     NO_RIDERS        what is in the queue of a collected end is still referred to
     NO_HANG_UP       the collector closes an end without telling the peer
     RECORD_FIRST     the record is committed before its packet has left
     NO_OTHER_CLOSE   the collector runs after a close of P, Q or R only: no other socket of the machine is closed */
#define P 0
#define Q 1
#define R 2

/* who can refer to an end: two processes, and the queues of end 0 of P and of Q */
#define A 0
#define B 1
#define QUEUE(port) (2 + (port))
bool refers[12];
#define REF(who, port) refers[(who) * 3 + (port)]
#define HELD(port) (REF(A, port) || REF(B, port))
#define COUNTED(port) (HELD(port) || REF(QUEUE(P), port) || REF(QUEUE(Q), port))
#define REACHED_P (HELD(P) || (REF(QUEUE(Q), P) && HELD(Q)))
#define REACHED_Q (HELD(Q) || (REF(QUEUE(P), Q) && HELD(P)))
bool closed[3], hung_up[3];       /* end 0 of each; hung_up: its peer can see it */
/* the lanes to P and Q: records, the reader's place (it travels with the end), packets */
byte tail[2], place[2];
chan packets[2] = [2] of { byte };
bool kill_a, kill_b, z_told;
bool kicked;                      /* a socket has closed: the collector has a reason to run */
byte owner[3];                    /* ghost: 0 is none */

/* All in one step: what lies in the queue of an end that closes loses that reference. */
inline shut(port) {
    closed[port] = 1; hung_up[port] = 1; kicked = 1;
    if
    :: port != R -> REF(QUEUE(port), P) = 0; REF(QUEUE(port), Q) = 0; REF(QUEUE(port), R) = 0
    :: else
    fi
}

inline collect(port) {
#if NO_RIDERS
    closed[port] = 1; hung_up[port] = 1;
#else
    shut(port);
#endif
#if NO_HANG_UP
    hung_up[port] = 0;
#endif
    REF(QUEUE(P), port) = 0; REF(QUEUE(Q), port) = 0
}

#if NO_OTHER_CLOSE
#define RUNS kicked
#else
#define RUNS true
#endif

proctype kernel() {
end:
    do
    :: d_step { !closed[P] && !COUNTED(P) -> shut(P) }
    :: d_step { !closed[Q] && !COUNTED(Q) -> shut(Q) }
    :: d_step { !closed[R] && !COUNTED(R) -> shut(R) }
#if EAGER_COLLECTOR
    :: d_step { !closed[P] && COUNTED(P) && !HELD(P) -> collect(P) }
    :: d_step { !closed[Q] && COUNTED(Q) && !HELD(Q) -> collect(Q) }
#elif !NO_COLLECTOR
    :: d_step { RUNS && !closed[P] && COUNTED(P) && !REACHED_P -> collect(P) }
    :: d_step { RUNS && !closed[Q] && COUNTED(Q) && !REACHED_Q -> collect(Q) }
#endif
    :: d_step { kicked -> kicked = 0 }                   /* the collector has come by */
    od
}

proctype killer() {
    if :: kill_a = 1 :: kill_b = 1 :: kill_a = 1; kill_b = 1 :: true fi
}

/* Moves a port to the queue of `to`, unless that has closed: then it is handed back. */
inline post(port) {
    owner[port] = 0;
#if RECORD_FIRST
    tail[to]++;
#endif
    if
    :: d_step { !closed[to] -> packets[to] ! port; REF(QUEUE(to), port) = 1 };
#if !RECORD_FIRST
        tail[to]++;
#endif
        REF(me, port) = 0
    :: closed[to] -> owner[port] = 1 + me
    fi
}

/* Takes the next thing that has come to a port that is held. */
inline take(from) {
    if
    :: atomic { packets[from] ? got ->
            assert(REF(QUEUE(from), got) && !closed[got] && owner[got] == 0);
            REF(QUEUE(from), got) = 0; REF(me, got) = 1; owner[got] = 1 + me; place[from]++; got = 0 }
    :: empty(packets[from]) -> assert(false)
    fi
}

inline drop(port) {
    REF(me, port) = 0;
    if :: owner[port] == 1 + me -> owner[port] = 0 :: else fi
}

/* Has end 0 of `own` at first, and end 1 of `to` to the end. */
proctype process(byte me, own, to) {
    byte got; bool posted, passed_on;
    {
        do
        :: REF(me, own) && !posted -> posted = 1; post(own)
        :: REF(me, R) && !passed_on -> passed_on = 1; post(R)
        :: REF(me, P) && place[P] < tail[P] -> take(P)
        :: REF(me, Q) && place[Q] < tail[Q] -> take(Q)
        :: d_step { REF(me, P) -> drop(P) }
        :: d_step { REF(me, Q) -> drop(Q) }
        :: d_step { REF(me, R) -> drop(R) }
        :: !REF(me, P) && !REF(me, Q) && !REF(me, R) -> break
        od;
        hung_up[to]                                      /* sleeps until what it has posted to is gone */
    } unless { (me == A && kill_a) || (me == B && kill_b) };
    skip;
    d_step { drop(P); drop(Q); drop(R) }
}

proctype Z() { hung_up[R]; z_told = 1 }

init {
    atomic {
        REF(A, P) = 1; REF(A, R) = 1; REF(B, Q) = 1;
        owner[P] = 1 + A; owner[R] = 1 + A; owner[Q] = 1 + B;
        run kernel(); run killer(); run process(A, P, Q); run process(B, Q, P); run Z()
    };
    timeout;
    assert(closed[P] && closed[Q] && closed[R] && z_told)
}
