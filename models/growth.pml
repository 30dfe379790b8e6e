/* Growth: one lane whose area has three segments of 4, 4 and 8 units. A unit is 16 bytes. The record of a message takes
   1, 3 or 7 units, and a control record takes one.

   P posts N messages of any of these lengths, and waits for room by a futex. It plans, writes, stages and commits as
   the crate does: here, after padding, after a jump, or after a hop. It shrinks when the lane is empty, also by
   `trim`. A burst commits several records at once. C receives: it gives each message back at once, keeps some in use,
   or reads them in a batch with quiet releases. Outside of a batch it may also be busy: then it does nothing until no
   other step is possible. The lane does not move here (producer.pml and hops.pml show that), and no process dies.

   Shown: each message arrives once, in order, and stays whole until it is given back; no byte is written that C has not
   released; a control record always has room; P does not sleep while it could post or hop, also while C is busy; when C
   has received and given back everything, P never needs more of it than that it receives; no process sleeps for ever.

   Fails with: NO_RESERVE ALWAYS_FREE NO_CAP PAD_UNCOUNTED SHRINK_UNREAD
   Fails with: NO_HOP NO_HOP_LOOK NO_LOOK UNCOMMITTED NO_CONTROLS HOLD_CONTROLS NEWEST_FREE NO_LOOK_AFTER
     NO_RESERVE     no room is kept for a control record
     ALWAYS_FREE    every segment but the current one counts as free, whatever C has released
     NO_CAP         a segment of which only the jump is unread is entered as if it were free
     PAD_UNCOUNTED  the bytes of a padding do not count as used
     SHRINK_UNREAD  P goes to a smaller segment although the lane is not empty
     NO_HOP         P does not leave the only segment that holds the record, to enter it again at its start
     NO_HOP_LOOK    after it has armed its flag, P does not look whether it can hop
     NO_LOOK        after it has armed its flag, P does not look for room again
     UNCOMMITTED    P waits for room before it has committed what is staged
     NO_CONTROLS    C does not give back the control records behind a message together with it
     HOLD_CONTROLS  C sleeps before it has given back control records that came alone
     NEWEST_FREE    `head` follows the newest message, and not the oldest that is in use
     NO_LOOK_AFTER  C does not look for a waiting sender after a batch */
#ifndef N
#define N 4                       /* messages */
#endif
#define SHRINK_AFTER 1            /* records; 64 in the crate */
#define BYTES_OF_AREA 16
#define SIZE(k) ((k) == 2 -> 8 : 4)
#define START(k) ((k) * 4)
#define PADDING 99
#define JUMP 100                  /* + the segment in which to go on */
#if NO_RESERVE
#define RESERVE 0
#else
#define RESERVE 1
#endif

/* the lane */
byte mem[BYTES_OF_AREA], tail, head;
bool message_flag, room_flag, bell;
byte units[N];                    /* units of each message; the crate has it in the header */
/* P's private state; C reads it only to check that P does not sleep in vain */
byte position, segment, entered, seen, candidates, next;
byte vacated[3], jump_index[3];
/* ghosts */
byte promised, got;               /* messages committed; messages taken */

/* What follows is src/ring/segment.rs and route.rs; `h` is the head that P has seen. */
#define GOES_ROUND(k, l) ((l) < SIZE(k) / 2)
#define USABLE(h, k) ((h) >= vacated[k] -> SIZE(k) : jump_index[k])
#define UNRELEASED(h) (position - (h))
#define SINCE_ENTRY (position - entered)
#define USED(h) (UNRELEASED(h) < SINCE_ENTRY -> UNRELEASED(h) : SINCE_ENTRY)
#define INDEX (SINCE_ENTRY % SIZE(segment))
#define UNTIL_END (SIZE(segment) - INDEX)
#define CELL (START(segment) + INDEX)
#define HERE(h, l) ((l) <= UNTIL_END && USED(h) + RESERVE + (l) <= USABLE(h, segment))
#if PAD_UNCOUNTED
#define PADDED(h, l) ((l) > UNTIL_END && USED(h) + RESERVE + (l) <= USABLE(h, segment))
#else
#define PADDED(h, l) ((l) > UNTIL_END && USED(h) + RESERVE + UNTIL_END + (l) <= USABLE(h, segment))
#endif
#if ALWAYS_FREE
#define FREE(h, k) (segment != k)
#define OPEN(h, k, l) (segment != k && (l) + RESERVE <= SIZE(k))
#else
#define FREE(h, k) (segment != k && (h) >= vacated[k])
#if NO_CAP
#define OPEN(h, k, l) (segment != k && (h) + 1 >= vacated[k] && (l) + RESERVE <= SIZE(k))
#else
#define OPEN(h, k, l) (segment != k && (h) + 1 >= vacated[k] && (l) + RESERVE <= USABLE(h, k))
#endif
#endif
#define ROOM(h, l) (HERE(h, l) || PADDED(h, l) || OPEN(h, 0, l) || OPEN(h, 1, l) || OPEN(h, 2, l))
#if NO_HOP
#define HOPS(h, l) false
#else
#define HOPS(h, l) (segment == 2 && (l) + 1 > SIZE(0) && !GOES_ROUND(2, l) && (FREE(h, 0) || FREE(h, 1)))
#endif
#define FIT(l) (GOES_ROUND(0, l) -> 0 : (GOES_ROUND(2, l) -> 2 : 3))   /* the smallest in which it fits at any index */
#define MAY_SHRINK(l) (segment != 0 && candidates >= SHRINK_AFTER && FIT(l) < segment)
#define LEN units[next]

/* When a segment was left does not matter once C has passed that. */
inline load_head() {
    d_step {
        seen = head;
        if :: seen >= vacated[0] -> vacated[0] = 0; jump_index[0] = 0 :: seen < vacated[0] fi;
        if :: seen >= vacated[1] -> vacated[1] = 0; jump_index[1] = 0 :: seen < vacated[1] fi;
        if :: seen >= vacated[2] -> vacated[2] = 0; jump_index[2] = 0 :: seen < vacated[2] fi
    }
}

inline write_jump(to) {
    assert(mem[CELL] == 0 && to != segment);
    mem[CELL] = JUMP + to;
    jump_index[segment] = INDEX;
    position++;
    vacated[segment] = position;
    segment = to; entered = position
}

/* Writes the record where it is planned, stages it, and the jump after it, if one follows. One step: all of it is
   private until the commit. */
inline write_and_stage() {
    i = 0;
    do
    :: i < LEN -> assert(mem[CELL + i] == 0); mem[CELL + i] = 1 + next; i++
    :: i == LEN -> break
    od;
    assert(INDEX + LEN <= SIZE(segment));
    position = position + LEN;
    i = 0;
#if !NO_RESERVE && !NO_CAP && !PAD_UNCOUNTED
    assert(USED(seen) + 1 <= USABLE(seen, segment));
#endif
    if
    :: segment != 0 || !GOES_ROUND(0, LEN) ->
        if
        :: FIT(LEN) < segment -> candidates = (candidates < SHRINK_AFTER -> candidates + 1 : candidates)
        :: FIT(LEN) >= segment -> candidates = 0
        fi;
        if
        :: !GOES_ROUND(segment, LEN) && FREE(seen, 0) -> write_jump(0)
        :: !GOES_ROUND(segment, LEN) && !FREE(seen, 0) && FREE(seen, 1) -> write_jump(1)
        :: !GOES_ROUND(segment, LEN) && !FREE(seen, 0) && !FREE(seen, 1) && FREE(seen, 2) -> write_jump(2)
        :: GOES_ROUND(segment, LEN) || !(FREE(seen, 0) || FREE(seen, 1) || FREE(seen, 2))
        fi
    :: segment == 0 && GOES_ROUND(0, LEN)
    fi;
    next++
}

inline commit() {                                        /* one store, then look for a sleeper */
    if
    :: position != tail ->
        d_step { tail = position; promised = next };
        d_step { f = message_flag; message_flag = 0 };
        if :: f -> bell = 1; f = 0 :: !f fi
    :: position == tail
    fi
}

/* what P does about the next message; 0 to 2: jumps to that segment */
#define STAY 3
#define PAD 4
#define HOP 5
#define FULL 6

/* Jumps to the smallest open segment in which the record fits at any index, else to the smallest that holds it. */
#define GROWN(h, l) (GOES_ROUND(0, l) && OPEN(h, 0, l) -> 0 : (GOES_ROUND(0, l) && OPEN(h, 1, l) -> 1 : \
    (GOES_ROUND(2, l) && OPEN(h, 2, l) -> 2 : (OPEN(h, 0, l) -> 0 : (OPEN(h, 1, l) -> 1 : 2)))))

/* An atomic step has one access to what C writes, or less; the rest of it is private. */
active proctype P() {
    byte i, plan; bool f;
    do
    :: next == N -> break
    :: next < N ->
        if
        :: LEN == 0 && segment != 0 && position == tail ->
            atomic {                                     /* `trim` */
                load_head();
                if :: seen == position -> write_jump(0) :: seen != position fi
            };
            commit()
        :: true
        fi;
        atomic {
            if :: LEN == 0 -> if :: LEN = 1 :: LEN = 3 :: LEN = 7 fi :: LEN != 0 fi;
            if
            :: MAY_SHRINK(LEN) || !(HERE(seen, LEN) || PADDED(seen, LEN)) -> load_head()
            :: !MAY_SHRINK(LEN) && (HERE(seen, LEN) || PADDED(seen, LEN))
            fi;
            if
#if SHRINK_UNREAD
            :: MAY_SHRINK(LEN) -> plan = FIT(LEN)
#else
            :: MAY_SHRINK(LEN) && seen == position -> plan = FIT(LEN)
#endif
            :: HERE(seen, LEN) -> plan = STAY
            :: PADDED(seen, LEN) -> plan = PAD
            :: !HERE(seen, LEN) && !PADDED(seen, LEN) && ROOM(seen, LEN) -> plan = GROWN(seen, LEN)
            :: !ROOM(seen, LEN) && HOPS(seen, LEN) -> plan = HOP
            :: !ROOM(seen, LEN) && !HOPS(seen, LEN) -> plan = FULL
            fi;
            if
            :: plan < STAY -> write_jump(plan)
            :: plan == PAD -> assert(mem[CELL] == 0); mem[CELL] = PADDING; position = position + UNTIL_END
            :: plan == HOP -> i = (FREE(seen, 0) -> 0 : 1); write_jump(i); i = 0
            :: plan == STAY || plan == FULL
            fi;
            if
            :: plan <= PAD -> write_and_stage()
            :: plan > PAD
            fi
        };
        if
        :: plan <= HOP -> commit()                       /* the post that hops fails, and is repeated */
        :: plan <= PAD                                   /* a burst goes on */
        :: plan == FULL ->
#if !UNCOMMITTED
            commit();
#endif
            room_flag = 1;
#if !NO_LOOK
            load_head();
#endif
            if
            :: ROOM(seen, LEN)
#if NO_HOP_LOOK
            :: !ROOM(seen, LEN) -> (!room_flag)
#else
            :: !ROOM(seen, LEN) && HOPS(seen, LEN)
            :: !ROOM(seen, LEN) && !HOPS(seen, LEN) -> (!room_flag)
#endif
            fi;
            room_flag = 0
        fi;
        plan = 0
    od;
    commit()
}

/* C: where it is; up to where it has passed what P has committed. */
byte at, at_segment, at_entered, known;
/* up to where it has given back, with the segment of that place */
byte given, given_segment, given_entered;
#define PLACE (START(at_segment) + (at - at_entered) % SIZE(at_segment))
#define GIVEN (START(given_segment) + (given - given_entered) % SIZE(given_segment))
#define IS_CONTROL (mem[PLACE] >= PADDING)

inline pass() {
    d_step {
        if
        :: mem[PLACE] == PADDING -> at = at + SIZE(at_segment) - (at - at_entered) % SIZE(at_segment)
        :: mem[PLACE] >= JUMP -> at_segment = mem[PLACE] - JUMP; at++; at_entered = at
        fi
    };
    assert(at <= known)
}

/* The bytes up to `to` are no longer used: they are still as they were written. Then P may have them. */
inline give_back(to) {
    d_step {
        do
        :: given < to ->
            if
            :: mem[GIVEN] >= JUMP ->
                v = GIVEN;
                given_segment = mem[v] - JUMP; mem[v] = 0; given++; given_entered = given
            :: mem[GIVEN] == PADDING ->
                v = GIVEN;
                mem[v] = 0; given = given + SIZE(given_segment) - (given - given_entered) % SIZE(given_segment)
            :: mem[GIVEN] < PADDING ->
                v = mem[GIVEN];
                assert(v != 0);
                j = 0;
                do
                :: j < units[v - 1] -> assert(mem[GIVEN + j] == v); mem[GIVEN + j] = 0; j++
                :: j == units[v - 1] -> break
                od;
                given = given + j; units[v - 1] = 0
            fi
        :: given >= to -> break
        od;
        assert(given == to);
        v = 0; j = 0;
        head = to
    }
}

inline look() { room_flag = 0 }                          /* a futex sleeper wakes as its word changes */

inline pass_controls() {
#if !NO_CONTROLS
    do
    :: at < known && IS_CONTROL -> pass()
    :: at == known || !IS_CONTROL -> break
    od
#else
    skip
#endif
}

inline release_all() {
    atomic { pass_controls(); give_back(at); owes_look = 0; is_lent = 0 };
    look()
}

active proctype C() {
    byte v, j, start; bool owes_look, is_lent, looks;
    do
    :: atomic { at < known && IS_CONTROL -> pass() }
    :: atomic { at < known && !IS_CONTROL ->
            d_step {
                v = mem[PLACE] - 1;
                assert(v == got && got < promised);
                start = at; at = at + units[v]; got++;
                assert(at <= known);
                v = 0
            };
            if
            :: pass_controls(); give_back(at); owes_look = 0; is_lent = 0; looks = 1
            :: is_lent = 1                               /* in use, as older ones may be */
#if NEWEST_FREE
                ; head = at; looks = 1
#endif
            :: given < start -> give_back(start); is_lent = 1; looks = 1     /* only the newest is in use */
            :: !is_lent && at < known && !room_flag ->   /* in a batch, while no sleeper is seen */
                give_back(at);
                owes_look = 1
            fi;
            start = 0 };
        if
        :: looks -> look(); looks = 0
        :: !looks
        fi;
        if
        :: true                                          /* a batch goes on */
        :: owes_look ->                                  /* its end */
#if NO_LOOK_AFTER
            owes_look = 0
#else
            release_all()
#endif
        fi;
        if
        :: true
        :: !owes_look && got < N ->                      /* busy */
            timeout;
            assert(!room_flag || !(ROOM(head, LEN) || HOPS(head, LEN)));
            assert(!room_flag || is_lent || got < promised || known != tail)
        fi;
        if :: got == N -> break :: got < N fi
    :: at == known && known != tail -> known = tail
    :: at == known && known == tail ->
        if
#if HOLD_CONTROLS
        :: is_lent -> release_all()
        :: !is_lent && owes_look -> look(); owes_look = 0
        :: !is_lent && !owes_look
#else
        :: head != at || owes_look -> release_all()
        :: head == at && !owes_look
#endif
        fi;
        bell = 0; message_flag = 1;
        if
        :: tail != known
        :: tail == known -> bell
        fi
    od;
    release_all()
}
