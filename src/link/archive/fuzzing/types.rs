//! Types for the decode targets.

use super::ReceiveDeserializer;
use rkyv::collections::swiss_table::{ArchivedIndexMap, IndexMapResolver};
use rkyv::niche::niching::{Bool, NaN};
use rkyv::rancor::{BoxedError, Fallible, Source};
use rkyv::rend::u64_le;
use rkyv::ser::{Allocator, Sharing, Writer};
use rkyv::string::ArchivedString;
use rkyv::validation::{ArchiveContext, SharedContext};
use rkyv::with::{Niche, NicheInto};
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::num::NonZeroU32;
use std::rc::Rc;

/// A variant of each form.
#[derive(Archive, Serialize, Deserialize, messageport_macros::SafeArchive)]
#[rkyv(derive(Debug, PartialEq))]
#[messageport(crate = crate)]
pub(super) enum Shape {
    Nothing,
    Circle { radius: f32, name: String },
    Path(Vec<(i16, i16)>, Option<char>),
    Group(Box<[u8]>, u64, bool),
}

/// Options in the space of what they hold.
#[derive(Archive, Serialize, Deserialize, messageport_macros::SafeArchive)]
#[messageport(crate = crate)]
pub(super) struct Niches {
    #[expect(clippy::box_collection, reason = "a pointer to what holds a pointer")]
    #[rkyv(with = Niche)]
    pub boxed: Option<Box<String>>,
    #[rkyv(with = Niche)]
    pub number: Option<NonZeroU32>,
    #[rkyv(with = NicheInto<Bool>)]
    pub flag: Option<bool>,
    #[rkyv(with = NicheInto<NaN>)]
    pub float: Option<f64>,
    #[rkyv(with = Niche)]
    pub inner: Option<Box<Inner>>,
}

#[derive(Archive, Serialize, Deserialize, messageport_macros::SafeArchive)]
#[messageport(crate = crate)]
pub(super) struct Inner {
    #[rkyv(with = Niche)]
    pub boxed: Option<Box<[u16]>>,
}

/// Contains itself.
#[derive(Archive, Serialize, Deserialize, messageport_macros::SafeArchive)]
#[rkyv(
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    deserialize_bounds(__D::Error: Source),
    bytecheck(bounds(__C: ArchiveContext, __C::Error: Source)),
    derive(Debug)
)]
#[messageport(crate = crate)]
pub(super) enum Tree {
    Leaf(String),
    Branches(#[rkyv(omit_bounds)] Vec<Tree>),
}

/// Shares others like it.
#[derive(Archive, Serialize, messageport_macros::SafeArchive)]
#[rkyv(
    serialize_bounds(__S: Writer + Sharing, __S::Error: Source),
    bytecheck(bounds(__C: ArchiveContext + SharedContext, __C::Error: Source))
)]
#[messageport(crate = crate)]
pub(super) struct Node {
    #[rkyv(omit_bounds)]
    pub left: Option<Rc<Node>>,
    #[rkyv(omit_bounds)]
    pub right: Option<Rc<Node>>,
}

impl Deserialize<Node, ReceiveDeserializer> for ArchivedNode {
    fn deserialize(&self, from: &mut ReceiveDeserializer) -> Result<Node, BoxedError> {
        Ok(Node { left: self.left.deserialize(from)?, right: self.right.deserialize(from)? })
    }
}

/// Archived as an index map, in this order.
pub(super) struct Indexed(pub Vec<(String, u64)>);

impl Archive for Indexed {
    type Archived = ArchivedIndexMap<ArchivedString, u64_le>;
    type Resolver = IndexMapResolver;

    fn resolve(&self, resolver: IndexMapResolver, out: Place<Self::Archived>) {
        ArchivedIndexMap::resolve_from_len(self.0.len(), (7, 8), resolver, out);
    }
}

impl<S> Serialize<S> for Indexed
where
    S: Writer + Allocator + Fallible<Error: Source> + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<IndexMapResolver, S::Error> {
        let entries = self.0.iter().map(|(key, value)| (key, value));
        Self::Archived::serialize_from_iter::<_, _, _, String, u64, _>(entries, (7, 8), serializer)
    }
}
