//! Deserialising values that are shared: a pointer comes out as the type that was asked for.
//!
//! rkyv's pool knows a shared value by its place in the archive alone. If two pointers of different
//! types, which have the same archived type, lead to one place (for example `Rc<u32>` and
//! `Rc<usize>`), it hands out the first one's memory as the second one's. No program posts that,
//! but a hostile peer can. Nothing that rkyv tells a pool identifies the type: it gives a function
//! that drops the value, and the compiler merges the functions of types that are dropped by the
//! same code.
//!
//! So the deserializer of this crate is not a [`Pooling`](rkyv::de::Pooling), to which rkyv's own
//! `Deserialize` of `Rc` and `Arc` is bound. The implementations here replace those. They know the
//! type, and look a value up by its place and its type.
#![allow(unsafe_code)]

use super::{Receive, access};
use rkyv::de::SharedPointer;
use rkyv::ptr_meta::Pointee;
use rkyv::rancor::{BoxedError, Fallible, ResultExt};
use rkyv::rc::{ArcFlavor, ArchivedRc, ArchivedRcWeak, RcFlavor};
use rkyv::traits::LayoutRaw;
use rkyv::{ArchiveUnsized, Deserialize, DeserializeUnsized};
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::rc::{self, Rc};
use std::sync::{self, Arc};

/// The deserializer for a received archive.
///
/// Pointers of one type to one value of the archive share one value. If a peer made pointers of
/// several types lead to one value, each type gets its own value.
///
/// It is not a [`rkyv::de::Pooling`]. For a type that contains itself behind `Rc` or `Arc`, the
/// derive of [`rkyv::Deserialize`] requires such a pool, so it cannot be used. Implement the trait
/// by hand for such a type:
///
/// ```
/// use messageport::{MessageChannel, ReceiveDeserializer, rkyv};
/// use rkyv::Deserialize;
/// use rkyv::rancor::BoxedError;
/// use std::rc::Rc;
///
/// #[messageport::message(no_deserialize)]
/// struct Node {
///     name: String,
///     next: Option<Rc<Node>>,
/// }
///
/// impl Deserialize<Node, ReceiveDeserializer> for ArchivedNode {
///     fn deserialize(&self, from: &mut ReceiveDeserializer) -> Result<Node, BoxedError> {
///         Ok(Node { name: self.name.deserialize(from)?, next: self.next.deserialize(from)? })
///     }
/// }
///
/// let channel = MessageChannel::new()?;
/// let last = Rc::new(Node { name: "last".to_string(), next: None });
/// channel.port1.post_message(&Node { name: "first".to_string(), next: Some(last) })?;
/// let first: Node = channel.port2.recv()?.deserialize()?;
/// assert_eq!(first.next.expect("another node").name, "last");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ReceiveDeserializer {
    /// A pointer to each value that was made, by the value's place and the pointer's type.
    made: HashMap<(usize, TypeId), Box<dyn Any>>,
}

impl Fallible for ReceiveDeserializer {
    type Error = BoxedError;
}

impl ReceiveDeserializer {
    /// A pointer to the value at this place, which is made if there is none of this type yet. The
    /// archive's check has refused cycles, so this ends.
    fn share<T, P>(
        &mut self,
        archived: &T::Archived,
        from_raw: unsafe fn(*const T) -> P,
    ) -> Result<P, BoxedError>
    where
        T: ArchiveUnsized + ?Sized,
        T::Archived: DeserializeUnsized<T, ReceiveDeserializer>,
        P: SharedPointer<T> + Clone + 'static,
    {
        let place = (archived as *const T::Archived).cast::<()>().addr();
        let key = (place, TypeId::of::<P>());
        if let Some(made) = self.made.get(&key) {
            let pointer = made.downcast_ref::<P>().expect("the key has the type");
            return Ok(pointer.clone());
        }
        let value = P::alloc(archived.deserialize_metadata()).into_error()?;
        // SAFETY: room for a value with this metadata was just allocated.
        unsafe { archived.deserialize_unsized(self, value) }?;
        // SAFETY: it was allocated by `alloc`, has a value now, and is given away here only.
        let raw = unsafe { P::from_value(value) };
        // SAFETY: the callers pass the `from_raw` of `P`, and rkyv makes of `raw` what its
        // `into_raw` gives; nothing else owns it.
        let pointer = unsafe { from_raw(raw) };
        self.made.insert(key, Box::new(pointer.clone()));
        Ok(pointer)
    }
}

/// The same for `Rc` and for `Arc`.
macro_rules! deserialize_shared {
    ($pointer:ident, $weak:ty, $flavor:ty) => {
        impl<T> Deserialize<$pointer<T>, ReceiveDeserializer> for ArchivedRc<T::Archived, $flavor>
        where
            T: ArchiveUnsized + LayoutRaw + Pointee + ?Sized + 'static,
            T::Archived: DeserializeUnsized<T, ReceiveDeserializer>,
        {
            fn deserialize(
                &self,
                deserializer: &mut ReceiveDeserializer,
            ) -> Result<$pointer<T>, BoxedError> {
                deserializer.share(self.get(), $pointer::from_raw)
            }
        }

        impl<T> Deserialize<$weak, ReceiveDeserializer> for ArchivedRcWeak<T::Archived, $flavor>
        where
            T: ArchiveUnsized + LayoutRaw + Pointee + 'static,
            T::Archived: DeserializeUnsized<T, ReceiveDeserializer>,
        {
            fn deserialize(
                &self,
                deserializer: &mut ReceiveDeserializer,
            ) -> Result<$weak, BoxedError> {
                let Some(strong) = self.upgrade() else { return Ok(<$weak>::new()) };
                let strong: $pointer<T> = strong.deserialize(deserializer)?;
                Ok($pointer::downgrade(&strong))
            }
        }
    };
}

deserialize_shared!(Rc, rc::Weak<T>, RcFlavor);
deserialize_shared!(Arc, sync::Weak<T>, ArcFlavor);

/// A type that can be received as an owned value.
///
/// Implemented for all types that derive [`rkyv::Archive`], [`rkyv::Deserialize`] and
/// [`SafeArchive`](derive@crate::SafeArchive), and for std's types; do not implement it yourself.
///
/// ```
/// use messageport::{MessagePort, ReceiveOwned};
/// use std::error::Error;
///
/// fn receive<T: ReceiveOwned>(port: &MessagePort) -> Result<T, Box<dyn Error>> {
///     Ok(port.recv()?.deserialize()?)
/// }
/// # let channel = messageport::MessageChannel::new()?;
/// # channel.port1.post_message(&7u32)?;
/// # assert_eq!(receive::<u32>(&channel.port2)?, 7);
/// # Ok::<(), Box<dyn Error>>(())
/// ```
///
/// Without `rkyv::Deserialize` a message can only be borrowed, by
/// [`data`](crate::MessageEvent::data):
///
/// ```compile_fail,E0277
/// use messageport::{MessageChannel, rkyv};
///
/// #[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
/// struct Order { id: u64 }
///
/// let channel = MessageChannel::new().unwrap();
/// let order: Order = channel.port1.recv().unwrap().deserialize().unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be received as an owned value",
    label = "needs `rkyv::Deserialize`",
    note = "`{Self}` and the types of its fields need \
            `#[derive(rkyv::Archive, rkyv::Deserialize, messageport::SafeArchive)]`",
    note = "without `rkyv::Deserialize`, borrow the archived value by `data`"
)]
pub trait ReceiveOwned: Receive<Archived: Deserialize<Self, ReceiveDeserializer>> + Sized {}

// Without this attribute an error would name only traits of rkyv.
#[diagnostic::do_not_recommend]
impl<T: Receive<Archived: Deserialize<T, ReceiveDeserializer>>> ReceiveOwned for T {}

/// An owned value of an archive, checked.
pub(crate) fn deserialize<T: ReceiveOwned>(bytes: &[u8]) -> Result<T, BoxedError> {
    access::<T>(bytes)?.deserialize(&mut ReceiveDeserializer { made: HashMap::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::rancor::Failure;

    fn twice<P: Clone>(pointer: &P) -> [P; 2] {
        [pointer.clone(), pointer.clone()]
    }

    /// Without the kernel, so that Miri runs it.
    #[test]
    fn pointers_of_every_form_come_out_shared() {
        type Form = (
            [Rc<[u16]>; 2],
            [Arc<str>; 2],
            [Rc<()>; 2],
            [Arc<String>; 2],
            (Rc<String>, rc::Weak<String>, sync::Weak<u8>),
        );
        let word = Rc::new("word".to_owned());
        let form: Form = (
            twice(&Rc::from([7, 8, 9])),
            twice(&Arc::from("text")),
            twice(&Rc::new(())),
            twice(&Arc::new("word".to_owned())),
            (Rc::clone(&word), Rc::downgrade(&word), sync::Weak::new()),
        );
        let bytes = rkyv::to_bytes::<Failure>(&form).expect("an honest value");
        let (numbers, texts, empty, words, (word, weak, dead)) =
            deserialize::<Form>(&bytes).expect("an honest archive");
        assert!(Rc::ptr_eq(&numbers[0], &numbers[1]) && *numbers[0] == [7, 8, 9]);
        assert!(Arc::ptr_eq(&texts[0], &texts[1]) && &*texts[0] == "text");
        assert!(Arc::ptr_eq(&words[0], &words[1]) && *words[0] == "word");
        assert!(weak.ptr_eq(&Rc::downgrade(&word)) && *word == "word");
        assert!(dead.upgrade().is_none());
        assert_eq!(Rc::strong_count(&empty[0]), 2, "nothing is left behind");
        assert_eq!((Rc::strong_count(&word), Rc::weak_count(&word)), (1, 1));
    }

    /// Both are archived as 32 bits, and each makes what it needs from one place.
    #[test]
    fn one_place_is_a_value_of_each_type() {
        let bytes = rkyv::to_bytes::<Failure>(&twice(&twice(&Rc::new(7u32))));
        type Both = (Rc<u32>, Rc<usize>, Rc<u32>, Rc<usize>);
        let (narrow, wide, other_narrow, other_wide) =
            deserialize::<Both>(&bytes.expect("an honest value")).expect("right for both");
        assert!(Rc::ptr_eq(&narrow, &other_narrow) && Rc::ptr_eq(&wide, &other_wide));
        assert_eq!((*narrow, *wide), (7, 7));
    }
}
