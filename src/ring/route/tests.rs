//! The policy against a model of cells, over every state that small lanes can reach.
//!
//! The model keeps one cell for each sixteen bytes of the area and says which are the consumer's.
//! It knows nothing of positions: where a record may go is read off the cells.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::ring::cursor::Cursor;

const UNIT: u64 = RESERVE;

/// What the cells of a record hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    Message,
    Padding,
    /// Written by this owner of the producer.
    Jump,
    /// Written by a former owner.
    InheritedJump,
}

/// A lane as the policy sees it, beside the cells that are not released.
#[derive(Clone)]
struct Lane {
    state: State,
    /// Cells of the area that hold unreleased bytes.
    cells: Vec<bool>,
    /// Unreleased records in order: first cell, count of cells, content.
    records: VecDeque<(usize, usize, Content)>,
}

impl Lane {
    fn new(geometry: Geometry) -> Lane {
        // Close to the wrap of positions, so that every walk crosses it.
        let start = 0u64.wrapping_sub(2 * UNIT);
        let state =
            State::resume(geometry, Cursor::start(start), start, [start; MAX_SEGMENTS]).unwrap();
        let cells = vec![false; (geometry.limit() / UNIT) as usize];
        Lane { state, cells, records: VecDeque::new() }
    }

    /// First cell of a segment, and count of its cells.
    fn cells_of(&self, segment: u32) -> (usize, usize) {
        let geometry = &self.state.geometry;
        let (first, size) = (geometry.segment_offset(segment), geometry.segment_len(segment));
        ((first / UNIT) as usize, (size / UNIT) as usize)
    }

    fn is_empty(&self, segment: u32) -> bool {
        self.taken_in(segment) == 0
    }

    fn taken_in(&self, segment: u32) -> usize {
        let (first, size) = self.cells_of(segment);
        self.cells[first..first + size].iter().filter(|taken| **taken).count()
    }

    /// The jump in a segment that is the lane's oldest record: its index in cells, and whether this
    /// owner wrote it.
    fn oldest_jump_in(&self, segment: u32) -> Option<(usize, bool)> {
        let (first, size) = self.cells_of(segment);
        let &(from, _, content) = self.records.front()?;
        let is_jump = matches!(content, Content::Jump | Content::InheritedJump);
        (is_jump && (first..first + size).contains(&from))
            .then(|| (from - first, content == Content::Jump))
    }

    /// How many cells from a segment's start on may be used once it is entered.
    fn open_cells(&self, segment: u32) -> usize {
        match (self.taken_in(segment), self.oldest_jump_in(segment)) {
            (0, _) => self.cells_of(segment).1,
            (1, Some((index, true))) => index,
            _ => 0,
        }
    }

    /// The cell at the cursor.
    fn at(&self) -> usize {
        (self.state.cursor.offset(&self.state.geometry) / UNIT) as usize
    }

    /// Whether `count` cells from `from` on lie inside the current segment, are all free, and leave
    /// a free cell in it beside `padding` cells that are used as well.
    fn has_room(&self, from: usize, count: usize, padding: usize) -> bool {
        let here = self.state.cursor.segment;
        let (first, size) = self.cells_of(here);
        if let Some((index, is_own)) = self.oldest_jump_in(here) {
            // Left by this jump, and entered again since.
            return is_own && padding == 0 && from - first + count < index;
        }
        let free = size - self.taken_in(here);
        from + count <= first + size
            && self.cells[from..from + count].iter().all(|taken| !taken)
            && count + padding < free
    }

    /// Where a record of `count` cells may go in the current segment.
    fn may_stay(&self, count: usize) -> Option<Route> {
        let (first, size) = self.cells_of(self.state.cursor.segment);
        let rest = first + size - self.at();
        if self.has_room(self.at(), count, 0) {
            return Some(Route::Here);
        }
        let is_free = |range: std::ops::Range<usize>| self.cells[range].iter().all(|it| !it);
        let turns = count > rest && is_free(self.at()..first + size);
        // After padding the record is before the cursor, so it must not reach it.
        (turns && first + count <= self.at() && self.has_room(first, count, rest))
            .then_some(Route::Pad)
    }

    /// Uses cells that must be free: a write over unreleased bytes is found here.
    fn write(&mut self, from: usize, count: usize, content: Content) {
        for cell in &mut self.cells[from..from + count] {
            assert!(!*cell, "a write over bytes that are not released");
            *cell = true;
        }
        self.records.push_back((from, count, content));
    }

    fn jump(&mut self, segment: u32) {
        assert!(self.open_cells(segment) > 0, "a jump into a segment that is in use");
        self.write(self.at(), 1, Content::Jump);
        self.state.jump_to(segment);
    }

    /// Does what the producer does for a record of `count` cells. Returns whether it was posted.
    fn post(&mut self, count: usize) -> bool {
        let record = count as u64 * UNIT;
        let fit = self.state.smallest_fit(record).filter(|_| self.state.is_drained());
        match fit.map_or_else(|| route(record, &self.state), Route::Jump) {
            Route::Here => {}
            Route::Pad => {
                let rest = self.state.cursor.until_end(&self.state.geometry);
                self.write(self.at(), (rest / UNIT) as usize, Content::Padding);
                self.state.cursor = self.state.cursor.advanced(rest);
            }
            Route::Jump(segment) => self.jump(segment),
            Route::Hop(_) | Route::Full => return false,
        }
        self.write(self.at(), count, Content::Message);
        self.state.cursor = self.state.cursor.advanced(record);
        if let Some(segment) = self.state.jump_after(record) {
            self.jump(segment);
        }
        assert!(!self.cells[self.at()], "no room is left for a control record");
        // One step stands for all that must come in a row.
        let settled = if self.state.shrink_candidates == 0 { 0 } else { SHRINK_AFTER };
        self.state.shrink_candidates = settled;
        true
    }

    fn hop(&mut self, count: usize) -> bool {
        let target = self.state.hop_target(count as u64 * UNIT);
        target.into_iter().for_each(|segment| self.jump(segment));
        target.is_some()
    }

    /// Leaves an empty lane's segment for the base segment, as `trim` does.
    fn go_to_base(&mut self) -> bool {
        let goes = self.state.is_drained() && self.state.cursor.segment != 0;
        if goes {
            self.jump(0);
        }
        goes
    }

    /// The producer moves.
    fn change_owner(&mut self) {
        let State { geometry, cursor, head, .. } = self.state;
        self.state = State::resume(geometry, cursor, head, self.state.vacated_at()).unwrap();
        for (_, _, content) in &mut self.records {
            if *content == Content::Jump {
                *content = Content::InheritedJump;
            }
        }
    }

    /// Releases the oldest message, and the control records around it.
    fn release(&mut self) -> bool {
        self.release_oldest(true)
    }

    /// Releases the oldest message, the control records before it, and maybe those behind it.
    fn release_oldest(&mut self, and_behind: bool) -> bool {
        let mut messages = 0;
        let mut head = self.state.head;
        while let Some(&(from, count, content)) = self.records.front() {
            if messages == 1 && (content == Content::Message || !and_behind) {
                break;
            }
            messages += usize::from(content == Content::Message);
            self.records.pop_front();
            self.cells[from..from + count].fill(false);
            head = head.wrapping_add(count as u64 * UNIT);
        }
        let moved = head != self.state.head;
        self.state.release_to(head, self.state.cursor.position).expect("an honest consumer");
        moved
    }

    /// What tells two states apart for the policy: distances, no positions.
    fn key(&self) -> impl Eq + std::hash::Hash + use<> {
        let geometry = &self.state.geometry;
        let free: Vec<bool> = (0..geometry.segments()).map(|it| self.state.is_free(it)).collect();
        let cursor = self.state.cursor;
        (
            (cursor.segment, cursor.index(geometry), self.state.used()),
            (free, self.state.shrink_candidates),
            self.records.clone(),
        )
    }

    fn counts(&self) -> std::ops::RangeInclusive<usize> {
        1..=(self.state.geometry.largest_record() / UNIT) as usize
    }
}

/// Small lanes: bounded, of two, of three segments and of four.
const SMALL: [(u64, u64); 6] = [(32, 64), (32, 128), (64, 64), (64, 128), (128, 128), (64, 256)];

/// Calls `visit` with every state that any order of posts, hops and releases leads to.
fn for_each_state(geometry: Geometry, mut visit: impl FnMut(&Lane)) -> usize {
    let mut pending = vec![Lane::new(geometry)];
    let mut seen = HashSet::from([pending[0].key()]);
    while let Some(lane) = pending.pop() {
        visit(&lane);
        let mut enter = |next: Lane| {
            if seen.insert(next.key()) {
                pending.push(next);
            }
        };
        for count in lane.counts() {
            let mut next = lane.clone();
            if next.post(count) {
                enter(next);
            }
            let mut next = lane.clone();
            if next.hop(count) {
                enter(next);
            }
        }
        // A larger lane has three times as many states with the rest of these steps.
        let is_small = geometry.limit() <= 128;
        let mut next = lane.clone();
        if next.release() {
            enter(next);
        }
        let mut next = lane.clone();
        if is_small && next.release_oldest(false) {
            enter(next);
        }
        let mut next = lane.clone();
        if next.go_to_base() {
            enter(next);
        }
        if is_small || lane.oldest_jump_in(lane.state.cursor.segment).is_some() {
            let mut next = lane.clone();
            next.change_owner();
            enter(next);
        }
    }
    seen.len()
}

fn geometries() -> impl Iterator<Item = Geometry> {
    let count = if cfg!(miri) { 1 } else { SMALL.len() };
    SMALL.into_iter().take(count).map(|(capacity, limit)| Geometry::new(capacity, limit))
}

#[test]
fn each_route_leads_where_the_cells_are_free_and_none_is_overlooked() {
    let mut found = HashSet::new();
    let mut capped = 0;
    for geometry in geometries() {
        for_each_state(geometry, |lane| {
            let here = lane.state.cursor.segment;
            let others = || (0..geometry.segments()).filter(|&segment| segment != here);
            for count in lane.counts() {
                let record = count as u64 * UNIT;
                let holds = |segment: u32| count < lane.cells_of(segment).1;
                let free = || others().filter(|&segment| lane.is_empty(segment));
                let open = || others().filter(|&segment| count < lane.open_cells(segment));
                // At every index, with one cell to spare: see `Geometry::goes_round`.
                let circles = |segment: u32| count < lane.cells_of(segment).1.div_ceil(2);
                let entered = open().find(|&segment| circles(segment)).or(open().next());
                let hop = (!others().any(holds) && !circles(here)).then(|| free().next());
                let expected = (lane.may_stay(count))
                    .or(entered.map(Route::Jump))
                    .or(hop.flatten().map(Route::Hop))
                    .unwrap_or(Route::Full);
                let decided = route(record, &lane.state);
                assert_eq!(decided, expected, "{count} cells in {:?}", lane.state);
                found.insert(std::mem::discriminant(&decided));
                capped += usize::from(matches!(decided, Route::Jump(to) if !lane.is_empty(to)));
            }
        });
    }
    // A walk that never meets a kind of route shows nothing of it.
    // Under Miri there is one small lane.
    assert!(cfg!(miri) || found.len() == 5, "kinds of routes: {found:?}");
    assert!(cfg!(miri) || capped > 0, "no segment was entered before its jump was released");
}

#[test]
fn every_free_segment_and_all_room_at_the_cursor_are_known() {
    for geometry in geometries() {
        for_each_state(geometry, |lane| {
            for segment in (0..geometry.segments()).filter(|&it| it != lane.state.cursor.segment) {
                assert_eq!(lane.state.is_free(segment), lane.is_empty(segment), "{segment}");
            }
            let most = lane.cells_of(lane.state.cursor.segment).1;
            let room = (0..=most).rev().find(|&count| lane.has_room(lane.at(), count, 0));
            assert_eq!(lane.state.room_here() / UNIT, room.unwrap_or(0) as u64);
        });
    }
}

#[test]
fn every_record_gets_out_again_once_the_lane_is_drained() {
    for geometry in geometries() {
        for_each_state(geometry, |lane| {
            for count in lane.counts() {
                let mut lane = lane.clone();
                while lane.release() {}
                assert!(lane.state.is_drained(), "the consumer has taken everything");
                if !lane.post(count) {
                    assert!(lane.hop(count), "{count} cells are stuck in {:?}", lane.state);
                    while lane.release() {}
                    assert!(lane.post(count), "{count} cells are stuck after a hop");
                }
            }
        });
    }
}

#[test]
fn only_a_settled_lane_has_a_home_and_it_is_the_smallest_that_serves() {
    for geometry in geometries() {
        for_each_state(geometry, |lane| {
            for count in lane.counts() {
                let record = count as u64 * UNIT;
                let here = lane.state.cursor.segment;
                let smallest = (0..here).find(|&segment| geometry.goes_round(segment, record));
                let settled = lane.state.shrink_candidates >= SHRINK_AFTER;
                assert_eq!(lane.state.smallest_fit(record), smallest.filter(|_| settled));
            }
        });
    }
}

#[test]
fn a_plan_is_the_place_of_its_route() {
    for geometry in geometries() {
        for_each_state(geometry, |lane| {
            for count in lane.counts() {
                let record = count as u64 * UNIT;
                let decided = route(record, &lane.state);
                let plan = lane.state.plan(decided, record);
                let (first, _) = lane.cells_of(lane.state.cursor.segment);
                let cell = match decided {
                    Route::Here => lane.at(),
                    Route::Pad => first,
                    Route::Jump(segment) => lane.cells_of(segment).0,
                    Route::Hop(_) | Route::Full => {
                        assert_eq!(plan, None);
                        continue;
                    }
                };
                let plan = plan.expect("the record has a place");
                assert_eq!((plan.offset, plan.room), (cell as u64 * UNIT, record));
                assert_eq!(plan.offset, plan.at.offset(&geometry));
                assert_eq!(plan.turns(), decided != Route::Here);
            }
        });
    }
}

/// A capsule from a hostile former owner: whatever it says, each record gets out once the lane is
/// drained, and a close has its room.
#[test]
fn marks_that_a_former_owner_made_up_block_nothing_for_ever() {
    let geometry = Geometry::new(64, 256);
    let marks = || (0..=24u64).map(|units| units.wrapping_sub(4).wrapping_mul(UNIT));
    for (behind, lie) in (0..=8u64).flat_map(|behind| marks().map(move |lie| (behind, lie))) {
        for segment in 0..geometry.segments() {
            let entered = 0u64;
            let cursor = Cursor { position: entered, segment, entered }.advanced(behind * UNIT);
            let mut state = State::resume(geometry, cursor, entered, [lie; MAX_SEGMENTS]).unwrap();
            assert!(state.room_here() + RESERVE <= geometry.segment_len(segment));
            state.release_to(cursor.position, cursor.position).unwrap();
            for record in (UNIT..=geometry.largest_record()).step_by(UNIT as usize) {
                let decided = route(record, &state);
                assert_ne!(decided, Route::Full, "{record} bytes, marks {lie:#x}");
            }
        }
    }
}
