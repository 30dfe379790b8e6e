/* Sleeping and waking, of one end whose peer is X.

   R is the receiving half. It sleeps on the end's doorbell for what X posts. With ROOM there is the sending half S
   instead, which posts into a lane with one place that X reads; a thread T shares it, and posts while S may sleep. S
   sleeps for room on the futex of its flag, and says that it is awake when it has not slept for long. With ASYNC there
   are both halves, S is asynchronous, and both sleep on the doorbell. A former owner may have left any flag. X may close
   either direction and keep its sockets, exit, be killed between any two steps, or stay alive and do nothing more, so
   that no hang-up hides a lost wake-up. The kernel may refuse a ring once.

   Shown: when no step is possible any more, R sleeps only if it has received everything, and S only if X can still make
   room and has not; neither of them sleeps after a hang-up or a close. `Closed` comes after the last message.

   Sequentially consistent: the fences are not in the model, and neither are the barrier and the fence that X omits for
   an S that is awake. What the model says of them is the order of their steps; src/ring/models.rs shows with loom that
   the fences are needed, and that one barrier replaces those that were omitted.

   Passes with: ROOM ASYNC
   Fails with: NO_LOOK LATE_DRAIN FLAG_FIRST LOAD_CLEAR HANG_UP_LAST DEAF NO_END_LOOK SILENT_CLOSE NO_PUT_BACK NO_REPEAT
   Fails with: NO_ROOM_LOOK NO_SLICE NO_GONE_LOOK SILENT_LEAVE UNCOMMITTED OVER_ARMED STAYS_AWAKE BLIND_PUT_BACK
   Fails with: NO_PASS_ON NO_SHARE
     NO_LOOK         R does not look for a message again after it has armed its flag
     LATE_DRAIN      R drains the doorbell after it has armed its flag and looked
     FLAG_FIRST      a waker looks for the flag before it commits
     LOAD_CLEAR      a waker loads the flag, clears it, and wakes as the loaded value says
     HANG_UP_LAST    R asks the kernel for hang-up after its last look at the lane
     DEAF            R's sleep ends for a ring alone
     NO_END_LOOK     R does not look whether X has closed after it has armed its flag
     SILENT_CLOSE    X does not look for a sleeping R when it closes its sending half
     NO_PUT_BACK     the flag of a sleeper whose ring was refused is not set again
     NO_REPEAT       a refused ring is not repeated
     NO_ROOM_LOOK    S does not look for room again after it has armed its flag
     NO_SLICE        a sleep on the futex is not ended after some time to ask the kernel for hang-up
     NO_GONE_LOOK    S does not look whether X still reads after it has armed its flag
     SILENT_LEAVE    X does not look for a sleeping S when it closes its receiving half
     UNCOMMITTED     S waits for room before it has committed what is staged
     OVER_ARMED      a thread says "awake" although the flag is armed
     STAYS_AWAKE     S waits while its flag says "awake"
     BLIND_PUT_BACK  the flag of a sleeper whose ring was refused replaces one that was armed since
     NO_PASS_ON      an asynchronous S does not wake R when it has drained the doorbell
     NO_SHARE        R does not wake an asynchronous S when it has drained the doorbell */
#if NO_ROOM_LOOK || NO_SLICE || NO_GONE_LOOK || SILENT_LEAVE || UNCOMMITTED || OVER_ARMED || STAYS_AWAKE || BLIND_PUT_BACK
#define ROOM 1
#endif
#if NO_PASS_ON || NO_SHARE
#define ASYNC 1
#endif
#ifndef ASYNC
#define ASYNC 0
#endif
#if ASYNC
#define N0 1
#define N1 2
#else
#define N0 2                      /* messages to R */
#define N1 3                      /* messages of S; T has one more */
#endif
#define MAY_REFUSE (!ASYNC)       /* the others show that, and flags that were left */
#define PLACES 1

/* values of a flag */
#define NO_SLEEPER 0
#define FUTEX 1
#define DOORBELL 2
#define AWAKE 3

/* the lane to R, and the lane of S; `end` is in the same word as `tail` */
byte tail0, tail1, head1, flag0, flag1;
bool end0, reader_gone;
bool bell, hup;                   /* Y's doorbell; `hup`: X's sockets are closed */
/* Y: what wakes its tasks, and what S and T share under a lock */
bool wake_r, wake_s, locked, is_awake, known_hup;
byte position;
/* the kernel: S is asleep on the futex */
bool asleep;
/* ghosts */
byte got;
bool r_waits, s_waits;
bool kill_x;

active proctype killer() {
    if :: kill_x = 1 :: true fi
}

/* X's process: looks for a sleeper after a commit, takes the flag, and wakes. */
#if FLAG_FIRST
#define BEFORE(flag) f = flag
#define LOADS false
#else
#define BEFORE(flag) skip
#define LOADS true
#endif
inline look(flag) {
    atomic { if :: LOADS -> f = flag :: !LOADS fi };
    if
    :: f == NO_SLEEPER || f == AWAKE
    :: f == FUTEX || f == DOORBELL ->
#if LOAD_CLEAR
        flag = NO_SLEEPER;
#else
        d_step { f = flag; flag = NO_SLEEPER };
#endif
        if
        :: f == FUTEX -> asleep = 0
        :: f == DOORBELL -> bell = 1
        :: f == DOORBELL && !refused && MAY_REFUSE ->
            refused = 1;
#if BLIND_PUT_BACK
            flag = DOORBELL;
#elif !NO_PUT_BACK
            d_step { if :: flag == NO_SLEEPER -> flag = DOORBELL :: flag != NO_SLEEPER fi };
#endif
            owes = 1
        :: f == NO_SLEEPER || f == AWAKE
        fi
    fi;
    f = 0
}

active proctype X() {
    byte f; bool refused, owes;
    {
        do
#if !ROOM
        :: tail0 < N0 && !end0 -> BEFORE(flag0); tail0++; look(flag0)
        :: !end0 ->
#if SILENT_CLOSE
            end0 = 1
#else
            BEFORE(flag0); end0 = 1; look(flag0)
#endif
#endif
#if ROOM || ASYNC
        :: tail1 > head1 && !reader_gone -> BEFORE(flag1); head1++; look(flag1)
        :: !reader_gone ->
#if SILENT_LEAVE
            reader_gone = 1
#else
            BEFORE(flag1); reader_gone = 1; look(flag1)
#endif
#endif
#if NO_REPEAT || ASYNC
        :: true -> break
#else
        :: owes ->
            owes = 0;
#if !ROOM
            BEFORE(flag0); look(flag0)
#endif
#if ROOM
            BEFORE(flag1); look(flag1)
#endif
        :: !owes -> break
#endif
        od;
        if
        :: true                                          /* exits */
        :: true ->
end_x:      false
        fi
    } unless { kill_x };
    skip;
    d_step { hup = 1; f = 0; refused = 0; owes = 0 }
}

#if !ROOM
active proctype R() {
    bool rang, hung;
#if !ASYNC
    atomic { if :: flag0 = NO_SLEEPER :: flag0 = FUTEX :: flag0 = DOORBELL :: flag0 = AWAKE fi };
#endif
    do
    :: atomic { got < tail0 -> got++ }
    :: got == tail0 && end0 -> assert(got == tail0); break
    :: got == tail0 && !end0 ->
        wake_r = 0;
#if !LATE_DRAIN
        d_step { rang = bell; bell = 0; hung = !rang && hup; if :: hung -> known_hup = 1 :: !hung fi };
        hung = known_hup;
#endif
#if HANG_UP_LAST
        hung = 0;
#endif
        flag0 = DOORBELL;
        if
#if NO_LOOK
        :: true ->
#else
        :: got < tail0
#if NO_END_LOOK
        :: got == tail0 ->
#else
        :: got == tail0 && end0
        :: got == tail0 && !end0 ->
#endif
#endif
#if HANG_UP_LAST
            hung = hup;
#endif
#if LATE_DRAIN
            bell = 0; hung = hup;
#endif
            if
            :: hung -> assert(got == tail0); break
            :: !hung ->
#if ASYNC && !NO_SHARE
                wake_s = 1;                              /* that ring may have been for S */
#endif
                r_waits = 1;
end_r:
#if DEAF
                (bell || wake_r);
#else
                (bell || hup || wake_r);
#endif
                r_waits = 0
            fi
        fi;
        flag0 = NO_SLEEPER;
        rang = 0; hung = 0
    od;
#if ASYNC && !NO_SHARE
    wake_s = 1
#else
    skip
#endif
}
#endif

#if ROOM || ASYNC

#define HAS_ROOM (position - head1 < PLACES)

#if ROOM
inline lock() { atomic { !locked -> locked = 1 } }
inline unlock() { locked = 0 }
#else
inline lock() { skip }
inline unlock() { skip }
#endif

/* Posts, if there is a place. */
inline post() {
    if
    :: HAS_ROOM && !reader_gone && !known_hup ->
        position++; posted++;
        if
        :: tail1 = position                              /* commits; X does not sleep here, as R does there */
        :: true                                          /* a burst goes on */
        fi;
#if ROOM
        if
#if OVER_ARMED
        :: flag1 = AWAKE; is_awake = 1
#else
        :: flag1 == NO_SLEEPER || flag1 == AWAKE -> flag1 = AWAKE; is_awake = 1    /* it has not slept for long */
#endif
        :: true
        fi
#endif
    :: !HAS_ROOM || reader_gone || known_hup
    fi
}

/* Tells X to look for a sleeper, arms the flag, and looks again. */
inline prepare(how) {
#if !UNCOMMITTED
    tail1 = position;
#endif
    if
    :: is_awake ->
        is_awake = 0;
#if !STAYS_AWAKE
        flag1 = NO_SLEEPER
#endif
    :: !is_awake
    fi;
#if STAYS_AWAKE
    if :: flag1 == AWAKE :: flag1 != AWAKE -> flag1 = how fi;
#else
    flag1 = how;
#endif
    if
#if !NO_ROOM_LOOK
    :: HAS_ROOM -> ready = 1
#endif
#if !NO_GONE_LOOK
    :: reader_gone -> ready = 1
#endif
#if NO_ROOM_LOOK
    :: true
#elif NO_GONE_LOOK
    :: !HAS_ROOM
#else
    :: !HAS_ROOM && !reader_gone
#endif
    fi
}

active proctype S() {
    byte posted; bool ready;
#if !ASYNC
    atomic {
        if :: flag1 = NO_SLEEPER :: flag1 = FUTEX :: flag1 = DOORBELL :: flag1 = AWAKE; is_awake = 1 fi
    };
#endif
    do
    :: posted == N1 || reader_gone || known_hup -> break
    :: posted < N1 && !reader_gone && !known_hup && HAS_ROOM -> lock(); post(); unlock()
    :: posted < N1 && !reader_gone && !known_hup && !HAS_ROOM ->
#if ASYNC
        wake_s = 0;
        d_step { ready = bell; bell = 0; known_hup = known_hup || (!ready && hup) };
#if !NO_PASS_ON
        wake_r = wake_r || ready;                        /* that ring may have been for R */
#endif
        ready = 0;
        prepare(DOORBELL);
        if
        :: ready || known_hup
        :: !ready && !known_hup ->
            s_waits = 1;
end_s:      (bell || hup || wake_s);
            s_waits = 0
        fi
#else
        lock();
        if
        :: HAS_ROOM -> unlock()
        :: !HAS_ROOM ->
            prepare(FUTEX);
            d_step { known_hup = known_hup || (!ready && hup) };         /* the kernel is asked before each sleep */
            unlock();
            if
            :: ready || known_hup
            :: !ready && !known_hup ->
#if STAYS_AWAKE
                atomic { s_waits = 1; asleep = 1 };
#else
                atomic { s_waits = 1; asleep = (flag1 == FUTEX) };
#endif
end_s:
#if NO_SLICE
                (!asleep);
#else
                (!asleep || hup);
#endif
                d_step { s_waits = 0; asleep = 0 };
                flag1 = NO_SLEEPER
            fi
        fi
#endif
        ;
        ready = 0
    od
}

#if ROOM
active proctype T() {
    byte posted;
    do
    :: posted == 1 || reader_gone || known_hup -> break
    :: posted == 0 -> lock(); post(); unlock()
    :: break
    od
}
#endif
#endif

active proctype check() {
    timeout;
    assert(!r_waits || (got == tail0 && !end0 && !hup));
    assert(!s_waits || (tail1 - head1 == PLACES && !reader_gone && !hup))
}
