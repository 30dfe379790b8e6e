//! Posts with transferables: lists, pools, and buffers of pools.

use super::Sending;
use crate::error::{PoolError, PostError, SystemError};
use crate::link::attachment::{self, Attachment, Checked, Outgoing, Packet};
use crate::link::end::Event;
use crate::link::payload::{self, Post};
use crate::link::pool::{PoolMemory, PooledBuffer};
use crate::ring::route::Plan;
use crate::wire::frame::PoolShape;
use crate::wire::record::{Attached, Format};
use std::os::fd::AsFd;
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
        let plan = self.write_bytes(bytes)?;
        self.move_with(plan, bytes.len() as u32, format, checked, items)
    }

    /// Makes a pool and announces it to the peer, by a record that is not a message.
    pub(crate) fn add_pool(&mut self, slots: u32, len: u64) -> Result<Arc<PoolMemory>, PoolError> {
        if !self.end.is_trusted() {
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
        let (memory, descriptor) = PoolMemory::create(slots, len)?;
        let number = self.pools.len() as u32;
        let shape = PoolShape { number, slots: u64::from(slots), len };
        let sequence = self.send_packet(0, &mut [Attachment::Pool((descriptor.as_fd(), shape))])?;
        let attached = Attached::Pool { sequence };
        self.stage_slow(plan, 0, Format::Bytes, attached);
        self.commit();
        self.pools.push(memory.clone());
        Ok(memory)
    }

    /// Posts a value and hands over a buffer of one of this half's pools. It comes back on failure.
    pub(crate) fn post_value_pooled<T: Post>(
        &mut self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), (PostError, PooledBuffer)> {
        let Some(pool) = self.pools.iter().position(|memory| buffer.is_of(memory)) else {
            return Err((PostError::ForeignPool, buffer));
        };
        let attached = Attached::Pooled { pool: pool as u32, slot: buffer.slot() };
        let stage = |sending: &mut Sending, plan, len| {
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

    /// Whether pools were made here; they stay where they are mapped.
    pub(crate) fn has_pools(&self) -> bool {
        !self.pools.is_empty()
    }

    pub(super) fn begin_with(&mut self, items: &[Outgoing<'_>]) -> Result<Checked, PostError> {
        self.check_open()?;
        if !items.is_empty() && self.end.transfer_policy().peer_refuses {
            return Err(PostError::Refused);
        }
        let checked = attachment::check(items, self.end.region())?;
        // What a burst has staged must not wait behind the packet of a message that is already
        // visible.
        self.commit();
        Ok(checked)
    }

    /// Sends the packet, and posts the record that was written. Once the packet has left nothing
    /// can fail, so no packet is without its record while this process lives.
    pub(super) fn move_with(
        &mut self,
        plan: Plan,
        len: u32,
        format: Format,
        checked: Checked,
        items: &mut [Outgoing<'_>],
    ) -> Result<(), PostError> {
        let attached = self.send_attached(len, checked, items).inspect_err(|_| {
            payload::wipe(&self.producer, &plan);
        })?;
        self.producer.stage_with(plan, len, format, attached);
        self.commit();
        Ok(())
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
