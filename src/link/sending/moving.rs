//! Posts with transferables: lists, pools, and buffers of pools.

use super::Sending;
use super::writing::MOST_WISH;
use crate::error::{PoolError, PostError, SystemError};
use crate::link::attachment::{self, Attachment, Checked, Outgoing, Packet, SmallBuffers};
use crate::link::end::Event;
use crate::link::payload::{self, LengthChanged, Post};
use crate::link::pool::{FIRST_RECEIVER, MOST_FRAMES, PoolMemory, PooledBuffer};
use crate::ring::route::Plan;
use crate::wire::frame::PoolShape;
use crate::wire::record::{Attached, Format};
use rkyv::rancor::{BoxedError, Source};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

impl Sending {
    /// Posts a value with transferables.
    ///
    /// In the order of HTML's steps: the list's shape, then the serialisation, which runs the
    /// program's code, then whether its ports are open. Only then anything moves.
    pub(crate) fn post_value_with<T: Post>(
        &mut self,
        value: &T,
        items: &mut [Outgoing<'_>],
    ) -> Result<(), PostError> {
        let checked = self.begin_with(items)?;
        self.write_value(value, None, |sending, plan, len| {
            let plan = sending.make_room_behind(plan, len.into(), items, |sending, plan| {
                sending.serialize(value, Some(plan))
            })?;
            sending.move_with(plan, len, Format::Archive, checked, items)
        })?
    }

    /// Posts bytes with transferables.
    pub(crate) fn post_bytes_with(
        &mut self,
        bytes: &[u8],
        format: Format,
        items: &mut [Outgoing<'_>],
    ) -> Result<(), PostError> {
        let checked = self.begin_with(items)?;
        let len = bytes.len() as u64;
        let plan = match SmallBuffers::of(items) {
            // Without room for all of it they move by a packet, which needs less.
            Some(small) => match self.producer.plan(len.saturating_add(small.len.into())) {
                Ok(plan) if self.prefault.ensure(&plan, self.producer.cursor()).is_ok() => plan,
                _ => self.plan(len)?,
            },
            None => self.plan(len)?,
        };
        payload::fill(&self.producer, &plan, bytes);
        self.move_with(plan, bytes.len() as u32, format, checked, items)
    }

    /// Makes a pool and announces it to the peer, by a record that is not a message. Returns its
    /// number as well.
    pub(crate) fn add_pool(
        &mut self,
        slots: u32,
        len: u64,
        has_frames: bool,
    ) -> Result<(Arc<PoolMemory>, u32), PoolError> {
        if !has_frames && !self.end.is_trusted() {
            return Err(PoolError::NotTrusted);
        }
        self.check_open()?;
        if self.end.transfer_policy().peer_refuses {
            return Err(PostError::Refused.into());
        }
        self.commit();
        if self.pools.len() == MOST_POOLS {
            return Err(PoolError::TooMany { max: MOST_POOLS });
        }
        if slots == 0 || len == 0 {
            return Err(PoolError::Empty { count: slots, len: len as usize });
        }
        let plan = self.plan(0)?;
        if has_frames && slots > MOST_FRAMES {
            return Err(PoolError::TooManyFrames { count: slots, max: MOST_FRAMES });
        }
        let (memory, files) = match has_frames {
            true => {
                let (memory, files) = PoolMemory::create_frames(slots, len)?;
                (memory, Some(files))
            }
            false => (PoolMemory::create(slots, len)?, None),
        };
        let descriptors: Vec<_> = match &files {
            Some(files) => files.iter().map(AsFd::as_fd).collect(),
            None => memory.descriptor().into_iter().collect(),
        };
        let number = self.announce(plan, &memory, FIRST_RECEIVER, &descriptors)?;
        Ok((memory, number))
    }

    /// Announces the pool of a buffer that came by another port, and returns its number.
    #[cold]
    fn pass_pool_on(&mut self, memory: &Arc<PoolMemory>) -> Result<u32, PostError> {
        self.check_open()?;
        let file = match memory.descriptor() {
            Some(file) if self.end.is_trusted() && self.pools.len() < MOST_POOLS => file,
            _ => return Err(PostError::ForeignPool),
        };
        if self.end.transfer_policy().peer_refuses {
            return Err(PostError::Refused);
        }
        self.commit();
        let plan = self.plan(0)?;
        let (user, descriptor) = memory.add_user(file)?;
        self.announce(plan, memory, user, &[descriptor.as_fd()])
    }

    /// Announces a pool, whose user the peer will be.
    fn announce(
        &mut self,
        plan: Plan,
        memory: &Arc<PoolMemory>,
        user: u32,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<u32, PostError> {
        let number = self.pools.len() as u32;
        let shape = PoolShape { number, slots: u64::from(memory.slots()), len: memory.len() };
        let mut items: Vec<Outgoing<'_>> =
            descriptors.iter().map(|file| Attachment::Descriptor(*file)).collect();
        items[0] = Attachment::Pool((descriptors[0], shape));
        let sequence = self.send_packet(0, &mut items)?;
        let has_frames = descriptors.len() == 2;
        self.stage_slow(plan, 0, Format::Bytes, Attached::Pool { number, sequence, has_frames });
        self.commit();
        self.pools.push((memory.clone(), user));
        Ok(number)
    }

    /// The number of a buffer's pool, which the peer is told of unless it knows it.
    fn pool_of(&mut self, buffer: &PooledBuffer) -> Result<u32, PostError> {
        let number = match self.pools.iter().position(|(memory, _)| buffer.is_of(memory)) {
            Some(number) => number as u32,
            None => self.pass_pool_on(buffer.memory())?,
        };
        if self.end.has_refused_pool(number) {
            return Err(PostError::PoolRefused);
        }
        Ok(number)
    }

    /// Posts a value and hands over a buffer of a pool, which the peer may not know yet. It comes
    /// back on failure.
    pub(crate) fn post_value_pooled<T: Post>(
        &mut self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), (PostError, PooledBuffer)> {
        let pool = match self.pool_of(&buffer) {
            Ok(pool) => pool,
            Err(error) => return Err((error, buffer)),
        };
        let attached = Attached::Pooled { pool, slot: buffer.slot() };
        let stage = |sending: &mut Sending, plan, len| {
            buffer.hand_to(sending.pools[pool as usize].1);
            sending.producer.stage_with(plan, len, Format::Archive, attached);
        };
        match self.write_value(value, None, stage) {
            Ok(()) => {
                // From here on the receiver of the record gives it back.
                buffer.mark_moved();
                self.commit();
                Ok(())
            }
            Err(error) => Err((error, buffer)),
        }
    }

    /// Whether pools were announced here; they stay where they are mapped.
    pub(crate) fn has_pools(&self) -> bool {
        !self.pools.is_empty()
    }

    pub(super) fn begin_with(&mut self, items: &[Outgoing<'_>]) -> Result<Checked, PostError> {
        self.check_open()?;
        if !items.is_empty() && self.end.transfer_policy().peer_refuses {
            return Err(PostError::Refused);
        }
        let checked = attachment::check(items, self.end.region())?;
        if let Some(small) = SmallBuffers::of(items) {
            // A value's room is chosen before its length is known: it is to have room for them.
            self.last_len = (self.last_len + u64::from(small.len)).min(MOST_WISH);
        }
        // What a burst has staged must not wait behind the packet of a message that is already
        // visible.
        self.commit();
        Ok(checked)
    }

    /// Sends the packet, and posts the record that was written. Once the packet has left nothing
    /// can fail, so no packet is without its record while this process lives. Small buffers are
    /// written behind the message instead, if the plan has room for them.
    pub(super) fn move_with(
        &mut self,
        plan: Plan,
        len: u32,
        format: Format,
        checked: Checked,
        items: &mut [Outgoing<'_>],
    ) -> Result<(), PostError> {
        let attached = self.write_or_send(&plan, len, checked, items).inspect_err(|_| {
            payload::wipe(&self.producer, &plan);
        })?;
        let len = len + attached.len_in_payload();
        self.producer.stage_with(plan, len, format, attached);
        self.commit();
        Ok(())
    }

    /// A plan with room for the small buffers of a list behind a value of `len` bytes, which was
    /// written where `plan` says, and is written again by `write` if there is too little. Without
    /// such room `plan` itself: they move by a packet then.
    pub(super) fn make_room_behind(
        &mut self,
        plan: Plan,
        len: u64,
        items: &[Outgoing<'_>],
        write: impl FnOnce(&mut Sending, &Plan) -> Result<u64, PostError>,
    ) -> Result<Plan, PostError> {
        let Some(small) = SmallBuffers::of(items) else { return Ok(plan) };
        let needed = len + u64::from(small.len);
        if needed <= plan.payload_room() {
            return Ok(plan);
        }
        let longer = match self.producer.plan(needed) {
            Ok(longer) if self.prefault.ensure(&longer, self.producer.cursor()).is_ok() => longer,
            _ => return Ok(plan),
        };
        let again = write(self, &longer).inspect_err(|_| self.wipe(Some(&plan)))?;
        if again == len {
            return Ok(longer);
        }
        self.wipe(Some(&plan));
        self.wipe(Some(&longer));
        Err(PostError::Serialize(BoxedError::new(LengthChanged { len, again })))
    }

    fn write_or_send(
        &mut self,
        plan: &Plan,
        len: u32,
        checked: Checked,
        items: &mut [Outgoing<'_>],
    ) -> Result<Attached, PostError> {
        let len_with = |small: SmallBuffers| u64::from(len) + u64::from(small.len);
        match SmallBuffers::of(items) {
            Some(small) if len_with(small) <= plan.payload_room() => {
                SmallBuffers::write(&self.producer, plan, len.into(), items)?;
                Ok(Attached::Small { count: small.count, len: small.len })
            }
            _ => self.send_attached(len, checked, items),
        }
    }

    /// Sends the packet of a message, if it has one.
    fn send_attached(
        &mut self,
        len: u32,
        checked: Checked,
        items: &mut [Outgoing<'_>],
    ) -> Result<Attached, PostError> {
        checked.check_ports()?;
        match checked.descriptors {
            0 => Ok(Attached::Nothing),
            descriptors => {
                let sequence = self.send_packet(len, items)?;
                Ok(Attached::Packet { descriptors, sequence })
            }
        }
    }

    /// Sends a packet, and returns its sequence.
    fn send_packet(&mut self, len: u32, items: &mut [Outgoing<'_>]) -> Result<u64, PostError> {
        self.enlarge_socket();
        let sequence = self.packets;
        let packet = Packet::new(sequence, items)?;
        let sent = packet.send(self.end.attachment_socket());
        sent.map_err(|error| self.packet_refused(error, len))?;
        self.packets = sequence.wrapping_add(1);
        Ok(sequence)
    }

    #[cold]
    fn packet_refused(&mut self, error: SystemError, len: u32) -> PostError {
        match error.source.raw_os_error() {
            // The kernel says ENOBUFS or ENOMEM if its own memory runs out: this is waited out,
            // too.
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                self.producer.count_full();
                let unread = self.producer.unreleased().unwrap_or(0);
                let limit = self.end.region().geometry().limit();
                PostError::QueueFull { len: u64::from(len), unread, limit, is_socket: true }
            }
            Some(libc::EPIPE | libc::ECONNRESET) => {
                // Whatever the doorbell says: this end can no longer send transferables.
                let _ = self.end.learn(Event::HungUp);
                let reason = self.gone().expect("a hang-up ends posting");
                PostError::Closed { reason }
            }
            Some(libc::ETOOMANYREFS) => PostError::TooManyInFlight,
            Some(libc::EPERM) => PostError::Refused,
            _ => error.into(),
        }
    }
}

/// Pools of one port: far below what its peer accepts, even in a row.
const MOST_POOLS: usize = 32;
