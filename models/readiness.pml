/* Readiness: programs that wait with a poller of their own.

   Two peers post to ports 0 and 1, and exit, are killed, or do nothing more. A ring sets a doorbell; a hang-up stays. U
   waits with its own poller, which may be edge-triggered: then it is told once of all that came before, rings and
   hang-ups alike. It waits on the descriptor of port 0. With SET it waits on that of a PortSet with both ports, and with
   LOOP on that of an EventLoop with both, to which another thread gives work. Set and loop have an epoll inside, which
   is level-triggered. It tells of one port at a time, or of both; of 64 in the crate. In a turn the loop serves one
   message of a port; 64 in the crate.

   Shown: when no step is possible any more, U sleeps only if it has received every message, has been told of each end,
   and the loop has no work left. An end is told after the last message. Half-second looks of the crate are left out.

   Passes with: SET LOOP
   Fails with: NO_FIRST_LOOK NO_ARM NO_LOOK LATE_DRAIN HANG_UP_LAST TO_SILENCE
   Fails with: STOP_EARLY FORGET_PORT ADD_TO_SILENCE ONE_ASK NO_SELF_RING SILENT_ADD LATE_BELL EDGE_LOOP
     NO_FIRST_LOOK   U waits after `as_fd`, before `try_recv` has found nothing
     NO_ARM          a `try_recv` that finds nothing does not arm the flag
     NO_LOOK         a `try_recv` that finds nothing does not look again after it has armed the flag
     LATE_DRAIN      the doorbell is drained after that look
     HANG_UP_LAST    the kernel is asked for hang-up after that look
     TO_SILENCE      for an edge-triggered poller a doorbell is drained by one call
     STOP_EARLY      U waits after a message of the set, and not only after `None`
     FORGET_PORT     the set does not look again at a port that has given a message
     ADD_TO_SILENCE  a port that is added to a set after `as_fd` is drained by one call
     ONE_ASK         the set asks its epoll once before it returns `None`, though that tells of some ports at a time
     NO_SELF_RING    the loop does not ring its own bell when the share of a port is over
     SILENT_ADD      the loop does not ring its own bell when a port is added
     LATE_BELL       the loop drains its own bell after it has taken its work
     EDGE_LOOP       the poller around a loop is edge-triggered, which the documents rule out */
#if STOP_EARLY || FORGET_PORT || ADD_TO_SILENCE || ONE_ASK
#define SET 1
#endif
#if NO_SELF_RING || SILENT_ADD || LATE_BELL || EDGE_LOOP
#define LOOP 1
#endif
#if SET || LOOP
#define PORTS 2
#define N 1                       /* messages of the second port; the first has one more */
#else
#define PORTS 1
#define N 2
#endif

byte tail[PORTS], got[PORTS];     /* `got` is the receiver's position */
bool flag[PORTS], bell[PORTS], hup[PORTS], over[PORTS];       /* `over`: U was told of the end */
bool watched[PORTS];              /* by the epoll inside of the set, or of the loop */
bool to_end[PORTS];               /* a port that is drained to the end */
bool is_edge, event;              /* U's poller; an event that it has not taken */
/* the set, or the loop */
bool queued[PORTS], own_bell;
byte turn;                        /* the port that epoll tells of first */
byte work;                        /* given to the loop */
/* ghost */
bool u_waits, has_second;          /* `has_second`: port 1 is in the set, or the loop */

#define RINGS(p) (bell[p] || hup[p])
#if SET
#define READABLE ((watched[0] && RINGS(0)) || (watched[1] && RINGS(1)))
#elif LOOP
#define READABLE (own_bell || (watched[0] && RINGS(0)) || (watched[1] && RINGS(1)))
#else
#define READABLE (watched[0] && RINGS(0))
#endif

proctype X(byte p; byte most) {
    byte posted; bool f;
    do
    :: posted < most ->
        tail[p]++; posted++;
        d_step { f = flag[p]; flag[p] = 0 };
        if
        :: f -> d_step { bell[p] = 1; event = event || watched[p] }; f = 0
        :: !f
        fi
    :: d_step { !hup[p] -> hup[p] = 1; event = event || watched[p] }; break
    :: break
    od
}

#if LOOP
proctype H() {
    work++;
    d_step { own_bell = 1; event = 1 }
}
#endif

/* A port's poll: takes a message, or drains, arms and looks. Answers in `found`. */
#define NOTHING 0
#define MESSAGE 1
#define END 2
inline drain(p) {
    do
    :: atomic { bell[p] -> bell[p] = 0; if :: to_end[p] :: !to_end[p] -> break fi }
    :: atomic { !bell[p] -> hung = hup[p]; break }
    od
}
inline poll(p) {
    do
    :: atomic { got[p] < tail[p] -> got[p]++; found = MESSAGE; break }
    :: got[p] == tail[p] ->
#if !LATE_DRAIN
        drain(p);
#endif
#if HANG_UP_LAST
        hung = 0;
#endif
#if !NO_ARM
        flag[p] = 1;
#endif
        if
#if NO_LOOK
        :: true ->
#else
        :: got[p] < tail[p] -> flag[p] = 0
        :: got[p] == tail[p] ->
#endif
#if HANG_UP_LAST
            hung = hup[p];
#endif
#if LATE_DRAIN
            drain(p);
#endif
            if
            :: hung ->
                d_step { assert(got[p] == tail[p] && !over[p]); over[p] = 1; watched[p] = 0; flag[p] = 0; hung = 0 };
                found = END
            :: !hung -> found = NOTHING
            fi;
            break
        fi
    od
}

/* The port's descriptor is asked for: its flag is armed, unless a message is there. */
inline arm(p, to) {
    flag[p] = 1;
    if :: got[p] < tail[p] -> flag[p] = 0 :: got[p] == tail[p] fi;
    to_end[p] = to
}
/* A poller begins to watch: what rings already is an event. */
inline watch(p) { d_step { watched[p] = 1; event = event || RINGS(p) } }

#if TO_SILENCE
#define DRAINS_TO_END 0
#else
#define DRAINS_TO_END 1
#endif

inline sleep() {
    u_waits = 1;
end_u:
    do
    :: atomic { !is_edge && READABLE -> event = 0; break }
    :: atomic { is_edge && event -> event = 0; if :: READABLE -> break :: !READABLE fi }
    od;
    u_waits = 0
}

#if SET
/* Epoll tells of `most` ports, and the next time of the other one first. `told`: of how many it has. */
inline ask() {
    d_step {
        told = 0;
        if
        :: watched[turn] && RINGS(turn) -> queued[turn] = 1; told++; turn = 1 - turn
        :: !(watched[turn] && RINGS(turn))
        fi;
        if
        :: told < most && watched[1 - turn] && RINGS(1 - turn) -> queued[1 - turn] = 1; told++
        :: told == most || !(watched[1 - turn] && RINGS(1 - turn))
        fi
    }
}

/* The set's `try_recv`. */
inline try_recv() {
#if ONE_ASK
    asks = 1;
#else
    asks = 1 + PORTS / most;
#endif
    do
    :: queued[0] || queued[1] ->
        atomic { p = (queued[0] -> 0 : 1); queued[p] = 0 };
        if
        :: over[p]
        :: !over[p] ->
            poll(p);
            if
#if FORGET_PORT
            :: found == MESSAGE -> break
#else
            :: found == MESSAGE -> queued[p] = 1; break
#endif
            :: found == END -> break
            :: found == NOTHING
            fi
        fi
    :: !queued[0] && !queued[1] && asks == 0 -> found = NOTHING; break
    :: !queued[0] && !queued[1] && asks > 0 ->
        ask();
        asks = (told == most -> asks - 1 : 0);
        if :: told > 0 :: told == 0 -> found = NOTHING; break fi
    od
}

active proctype U() {
    byte p, found, asks, told, most; bool hung;
    atomic { run X(0, N + 1); run X(1, N); if :: is_edge = 1 :: is_edge = 0 fi; if :: most = 1 :: most = 2 fi };
    arm(0, 0); watch(0); queued[0] = 1;
    if :: arm(1, 0); watch(1); queued[1] = 1; has_second = 1 :: true fi;
    event = READABLE;
    /* `as_fd` of the set: its ports are drained to the end from now on */
    to_end[0] = DRAINS_TO_END; to_end[1] = has_second && DRAINS_TO_END;
    do
    :: !has_second ->
        has_second = 1;
#if ADD_TO_SILENCE
        arm(1, 0);
#else
        arm(1, DRAINS_TO_END);
#endif
        watch(1); queued[1] = 1
    :: true ->
        try_recv();
        if
        :: found == NOTHING -> sleep()
#if STOP_EARLY
        :: found == MESSAGE -> sleep()
#endif
        :: found != NOTHING
        fi;
        found = NOTHING; p = 0
    :: over[0] && over[1] -> break
    od
}
#elif LOOP
/* A turn that does not wait. */
inline turn_of_loop() {
    d_step { ready[0] = watched[0] && RINGS(0); ready[1] = watched[1] && RINGS(1); rang = own_bell };
#if !LATE_BELL
    if :: rang -> own_bell = 0 :: !rang fi;
#endif
    d_step { ready[0] = ready[0] || queued[0]; ready[1] = ready[1] || queued[1]; queued[0] = 0; queued[1] = 0 };
    work = 0;
#if LATE_BELL
    if :: rang -> own_bell = 0 :: !rang fi;
#endif
    p = 0;
    do
    :: p < PORTS && ready[p] && !over[p] ->
        poll(p);
        if
        :: found == MESSAGE -> queued[p] = 1             /* its share is over */
        :: found != MESSAGE
        fi;
        found = NOTHING; p++
    :: p < PORTS && !(ready[p] && !over[p]) -> p++
    :: p == PORTS -> break
    od;
    skip;
    d_step { p = 0; ready[0] = 0; ready[1] = 0; rang = 0 };
    if
    :: queued[0] || queued[1] ->
#if NO_SELF_RING
        skip
#else
        d_step { own_bell = 1; event = 1 }
#endif
    :: !queued[0] && !queued[1]
    fi
}
inline add(q) {
    arm(q, 0); watch(q);
    queued[q] = 1;
#if SILENT_ADD
    skip
#else
    d_step { own_bell = 1; event = 1 }
#endif
}

active proctype U() {
    byte p, found; bool hung, rang, ready[PORTS];
    atomic { run X(0, N + 1); run X(1, N); run H() };
#if EDGE_LOOP
    is_edge = 1;
#endif
    add(0);
    event = READABLE;
    do
    :: !has_second -> has_second = 1; add(1)
    :: true -> sleep(); turn_of_loop()
    :: over[0] && over[1] && has_second && !work -> break
    od
}
#else
active proctype U() {
    byte found; bool hung;
    atomic { run X(0, N); if :: is_edge = 1 :: is_edge = 0 fi };
    /* `as_fd` may come before or after messages; the poller begins to watch at any time after it */
    arm(0, DRAINS_TO_END);
    watch(0);
#if NO_FIRST_LOOK
    sleep();
#endif
    do
    :: poll(0);
        if
        :: found == NOTHING -> sleep()
        :: found == MESSAGE
        :: found == END -> break
        fi;
        found = NOTHING
    od
}
#endif

#define IS_IDLE(p) (got[p] == tail[p] && (!hup[p] || over[p]))
active proctype check() {
    timeout;
#if SET || LOOP
    assert(!u_waits || (IS_IDLE(0) && (!has_second || IS_IDLE(1)) && work == 0))
#else
    assert(!u_waits || IS_IDLE(0))
#endif
}
