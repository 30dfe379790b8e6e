//! The macros of [`messageport`](https://docs.rs/messageport); use them through that crate.

mod attributes;
mod message;
mod recursion;
mod shape;

use attributes::{Container, Field, names_any};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Data, DeriveInput, Error, Fields, GenericParam, Index, Path, WherePredicate, parse_quote,
};

/// Makes a struct or enum a message type, in one line.
///
/// Derives `rkyv::Archive`, `rkyv::Serialize` and `rkyv::Deserialize` by the crate's own rkyv, so
/// that a program needs no dependency of its own on it, and `messageport::SafeArchive`. It also
/// gives the type a `messageport::Shape`, by which two programs find out whether they were built
/// with the same definition. Further derives and `#[rkyv(..)]` attributes go below it.
///
/// | In the parentheses | Effect |
/// |---|---|
/// | `name = "Order"` | the type's name in its shape, so that it can be renamed |
/// | `shape = "Order 2"` | this text is the whole shape: the two programs agree if it is equal |
/// | `no_deserialize` | leaves out `rkyv::Deserialize`, for types that borrow |
/// | `crate = path` | where the crate `messageport` is, if it is renamed or re-exported |
///
/// A type may contain itself in boxes, vectors, maps and the like: `enum Json { List(Vec<Json>) }`.
/// Inside an `Rc` or `Arc` this needs `no_deserialize`, see `messageport::ReceiveDeserializer`. If
/// two types contain each other, or a type contains itself in another generic type, put
/// `#[rkyv(omit_bounds)]` on the field, and the bounds on each of the types:
///
/// ```text
/// #[messageport::message]
/// #[rkyv(
///     serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: Source),
///     deserialize_bounds(__D::Error: Source),
///     bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: Source)),
/// )]
/// struct Folder { #[rkyv(omit_bounds)] entries: Vec<Entry> } // and an `Entry` has a `Folder`
/// ```
///
/// with `use messageport::rkyv::{self, rancor::Source};` above.
///
/// A field takes `#[messageport(shape = "calendar::Date 1")]`: the text stands for the shape of the
/// field's type, which needs none then. A type with derives of its own gets a shape by
/// `#[messageport(fingerprint)]` beside `#[derive(SafeArchive)]`.
#[proc_macro_attribute]
pub fn message(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    let arguments = syn::parse_macro_input!(arguments as message::Arguments);
    let item = syn::parse_macro_input!(item as DeriveInput);
    message::expand(&arguments, &item).unwrap_or_else(Error::into_compile_error).into()
}

/// Derives `messageport::SafeArchive` for the archived form of a type.
///
/// Use it together with `rkyv::Archive`; it reads that derive's `#[rkyv(..)]` attributes. If the
/// crate `messageport` has another name or is re-exported, name its path: `#[messageport(crate =
/// other::path)]`.
#[proc_macro_derive(SafeArchive, attributes(messageport, rkyv))]
pub fn safe_archive(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// A field of the source type, and its place and type in the archived type.
struct Part {
    /// Its name in a pattern: its own name, or its index.
    member: TokenStream,
    archived: TokenStream,
    attributes: Field,
    /// Whether its type depends on the parameters of the type that contains it.
    is_generic: bool,
    /// Its name, if it has one.
    name: Option<String>,
}

fn expand(input: &DeriveInput) -> Result<TokenStream, Error> {
    let container = Container::parse(input)?;
    let krate = &container.krate;
    let rkyv: Path = parse_quote!(#krate::rkyv);
    let archived = container.archived.clone().unwrap_or_else(|| {
        Ident::new(&format!("Archived{}", unraw(&input.ident)), Span::call_site())
    });
    let (variants, walk) = match &input.data {
        Data::Struct(data) => {
            let parts = parts(input, &data.fields, &rkyv)?;
            let arm = arm(&quote!(#archived), &parts, krate);
            (vec![parts], quote!(match self { #arm }))
        }
        Data::Enum(data) => {
            let mut all = Vec::new();
            let mut arms = Vec::new();
            for variant in &data.variants {
                let name = &variant.ident;
                let parts = parts(input, &variant.fields, &rkyv)?;
                arms.push(arm(&quote!(#archived::#name), &parts, krate));
                all.push(parts);
            }
            let walk = match arms.is_empty() {
                true => quote!(match *self {}),
                false => quote!(match self { #(#arms)* }),
            };
            (all, walk)
        }
        Data::Union(_) => {
            return Err(Error::new_spanned(input, "SafeArchive cannot be derived for unions"));
        }
    };
    let shape = shape::expand(input, &container, &variants);
    let forced = shape::forced(input, &container, &archived);
    let parts: Vec<Part> = variants.into_iter().flatten().collect();
    let mut generics = input.generics.clone();
    let bounds = generics.make_where_clause();
    bounds.predicates.extend(container.archive_bounds);
    bounds.predicates.extend(parts.iter().flat_map(|part| predicates(part, krate, &rkyv)));
    let (parameters, arguments, bounds) = generics.split_for_impl();
    // A type that contains itself says so by `omit_bounds`, without which rkyv's derive does not
    // compile. It is always walked: the constant cannot be computed from itself.
    let checks =
        parts.iter().map(|Part { archived, attributes, .. }| match attributes.omits_bounds {
            true => quote!(true),
            false => quote!(<#archived as #krate::SafeArchive>::CHECKS),
        });
    let levels =
        parts.iter().map(|Part { archived, attributes, .. }| match attributes.omits_bounds {
            true => quote!(u32::MAX),
            false => quote!(<#archived as #krate::SafeArchive>::LEVELS),
        });
    Ok(quote! {
        #[automatically_derived]
        // SAFETY: every field is checked, of every variant; rkyv's derive gives the archived type
        // nothing beyond them.
        unsafe impl #parameters #krate::SafeArchive for #archived #arguments #bounds {
            const CHECKS: bool = false #(| #checks)*;
            const LEVELS: u32 = {
                let levels: &[u32] = &[#(#levels),*];
                let (mut most, mut place) = (0, 0);
                while place < levels.len() {
                    if levels[place] > most {
                        most = levels[place];
                    }
                    place += 1;
                }
                most
            };

            #[allow(unused_variables, clippy::needless_match)]
            fn check(
                &self,
                check: &mut #krate::ArchiveCheck<'_>,
            ) -> ::core::result::Result<(), #rkyv::rancor::BoxedError> {
                #walk
            }

            #shape
        }

        #forced
    })
}

/// What the fields of a struct or a variant are.
fn parts(input: &DeriveInput, fields: &Fields, rkyv: &Path) -> Result<Vec<Part>, Error> {
    let parameters: Vec<String> = input
        .generics
        .params
        .iter()
        .map(|parameter| match parameter {
            GenericParam::Type(it) => it.ident.to_string(),
            GenericParam::Const(it) => it.ident.to_string(),
            GenericParam::Lifetime(it) => it.lifetime.ident.to_string(),
        })
        .collect();
    let part = |(place, field): (usize, &syn::Field)| {
        let attributes = Field::parse(field)?;
        let ty = &field.ty;
        let archived = match &attributes.with {
            Some(with) => quote!(<#with as #rkyv::with::ArchiveWith<#ty>>::Archived),
            None => quote!(<#ty as #rkyv::Archive>::Archived),
        };
        let is_generic = names_any(&archived, &parameters);
        let member = match &field.ident {
            Some(name) => quote!(#name),
            None => {
                let place = Index::from(place);
                quote!(#place)
            }
        };
        let name = field.ident.as_ref().map(unraw);
        Ok(Part { member, archived, attributes, is_generic, name })
    };
    fields.iter().enumerate().map(part).collect()
}

/// The arm of a match that checks each field of `pattern`.
fn arm(pattern: &TokenStream, parts: &[Part], krate: &Path) -> TokenStream {
    let names: Vec<Ident> = (0..parts.len()).map(|place| format_ident!("field{place}")).collect();
    let members = parts.iter().map(|part| &part.member);
    quote! {
        #pattern { #(#members: #names,)* .. } => {
            #(#krate::SafeArchive::check(#names, check)?;)*
            ::core::result::Result::Ok(())
        }
    }
}

/// What rkyv's own derive requires of a field, and that its archived form is safe. Only what
/// depends on a parameter is required, as the body proves the rest.
fn predicates(part: &Part, krate: &Path, rkyv: &Path) -> Vec<WherePredicate> {
    let Part { archived, attributes, is_generic, .. } = part;
    if attributes.omits_bounds || !is_generic {
        return Vec::new();
    }
    let ty = &attributes.ty;
    let is_archived = match &attributes.with {
        Some(with) => parse_quote!(#with: #rkyv::with::ArchiveWith<#ty>),
        None => parse_quote!(#ty: #rkyv::Archive),
    };
    vec![is_archived, parse_quote!(#archived: #krate::SafeArchive)]
}

fn unraw(name: &Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").map(str::to_owned).unwrap_or(name)
}
