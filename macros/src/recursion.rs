//! Types that contain themselves, in boxes, vectors and the like.
//!
//! rkyv's derives require of each field that its type can be archived, which for such a type cannot
//! be decided. `#[rkyv(omit_bounds)]` on the field leaves this requirement out, and has the
//! requirements of the containers be said for the whole type.

use crate::attributes::Field;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, GenericArgument, Ident, PathArguments, Type, parse_quote};

/// The containers through which a type can contain itself. In another generic type the type may be
/// a mere marker, as in `Id<Order>`.
const CONTAINERS: [&str; 10] =
    ["Arc", "BTreeMap", "BTreeSet", "Box", "HashMap", "HashSet", "Option", "Rc", "Vec", "VecDeque"];

/// Omits the bounds of the fields in which the type contains itself. Returns the bounds that the
/// type needs then, for its attributes: all that this crate's serializer, check and deserializer
/// fulfil. If one field says `omit_bounds` itself, the type is left as it is.
pub fn omit_bounds(
    item: &mut DeriveInput,
    rkyv: &TokenStream,
) -> Result<Option<TokenStream>, Error> {
    let name = item.ident.clone();
    let fields: Vec<&mut syn::Field> = match &mut item.data {
        Data::Struct(data) => data.fields.iter_mut().collect(),
        Data::Enum(data) => data.variants.iter_mut().flat_map(|it| &mut it.fields).collect(),
        Data::Union(_) => Vec::new(),
    };
    let mut recursive = Vec::new();
    for field in fields {
        let found = Field::parse(field)?;
        if found.omits_bounds {
            return Ok(None);
        }
        if found.with.is_none() && contains(&found.ty, &name) {
            recursive.push(field);
        }
    }
    if recursive.is_empty() {
        return Ok(None);
    }
    for field in recursive {
        field.attrs.push(parse_quote!(#[rkyv(omit_bounds)]));
    }
    Ok(Some(quote!(#[rkyv(
        serialize_bounds(
            __S: #rkyv::ser::Writer + #rkyv::ser::Allocator + #rkyv::ser::Sharing,
            __S::Error: #rkyv::rancor::Source,
        ),
        deserialize_bounds(__D::Error: #rkyv::rancor::Source),
        bytecheck(bounds(
            __C: #rkyv::validation::ArchiveContext + #rkyv::validation::SharedContext,
            __C::Error: #rkyv::rancor::Source,
        )),
    )])))
}

/// Whether a type is the one of that name, or contains it in containers of the standard library.
fn contains(ty: &Type, name: &Ident) -> bool {
    match ty {
        Type::Array(array) => contains(&array.elem, name),
        Type::Group(group) => contains(&group.elem, name),
        Type::Paren(paren) => contains(&paren.elem, name),
        Type::Slice(slice) => contains(&slice.elem, name),
        Type::Tuple(tuple) => tuple.elems.iter().any(|ty| contains(ty, name)),
        Type::Path(path) if path.qself.is_none() => {
            let Some(last) = path.path.segments.last() else { return false };
            // A path of several names can lead to another type of the same name.
            if path.path.segments.len() == 1 && (last.ident == *name || last.ident == "Self") {
                return true;
            }
            let PathArguments::AngleBracketed(inner) = &last.arguments else { return false };
            CONTAINERS.iter().any(|it| last.ident == it)
                && inner.args.iter().any(
                    |argument| matches!(argument, GenericArgument::Type(ty) if contains(ty, name)),
                )
        }
        _ => false,
    }
}
