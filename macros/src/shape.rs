//! What the derive of `SafeArchive` says about a type's shape.

use crate::attributes::Container;
use crate::{Part, unraw};
use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput};

/// The items of the implementation that describe the type: none if it has no shape.
pub fn expand(input: &DeriveInput, container: &Container, variants: &[Vec<Part>]) -> TokenStream {
    let Some(shape) = &container.shape else { return TokenStream::new() };
    let krate = &container.krate;
    if let Some(literal) = &shape.literal {
        return quote! {
            const HAS_SHAPE: bool = true;

            fn describe(shape: &mut #krate::ShapeWriter) {
                shape.literal(#literal);
            }
        };
    }
    let name = match &shape.name {
        Some(name) => name.value(),
        None => unraw(&input.ident),
    };
    let fields = variants.iter().map(|parts| {
        let fields = parts.iter().map(|part| {
            let name = part.name.as_deref().unwrap_or_default();
            let describe = describe(part, container);
            quote!((#name, #describe))
        });
        quote!(&[#(#fields),*])
    });
    let body = match &input.data {
        Data::Enum(data) => {
            let names = data.variants.iter().map(|variant| match &variant.discriminant {
                Some((_, value)) => format!("{} = {}", unraw(&variant.ident), spaceless(value)),
                None => unraw(&variant.ident),
            });
            quote!(shape.enumeration::<Self>(#name, &[#((#names, #fields)),*]))
        }
        _ => quote!(shape.structure::<Self>(#name, #(#fields)*)),
    };
    let known = variants.iter().flatten().map(|part| has_shape(part, input, container));
    quote! {
        const HAS_SHAPE: bool = true #(&& #known)*;

        fn describe(shape: &mut #krate::ShapeWriter) {
            #body
        }
    }
}

/// Has the compiler look at once whether every field has a shape, and not first where a port is
/// typed. Of a generic type only its uses can be looked at.
pub fn forced(input: &DeriveInput, container: &Container, archived: &Ident) -> TokenStream {
    let krate = &container.krate;
    match container.shape.is_some() && input.generics.params.is_empty() {
        true => quote!(const _: bool = <#archived as #krate::SafeArchive>::HAS_SHAPE;),
        false => TokenStream::new(),
    }
}

/// What describes the type of a field.
fn describe(part: &Part, container: &Container) -> TokenStream {
    let Part { archived, attributes, .. } = part;
    let krate = &container.krate;
    match &attributes.shape {
        Some(literal) => quote!(|shape: &mut #krate::ShapeWriter| shape.literal(#literal)),
        None => quote!(<#archived as #krate::SafeArchive>::describe),
    }
}

/// Whether the type of a field has a shape. A type without one is an error unless the user of a
/// generic type chose it. Where the type contains itself, it cannot be asked.
fn has_shape(part: &Part, input: &DeriveInput, container: &Container) -> TokenStream {
    let Part { archived, attributes, is_generic, .. } = part;
    if attributes.shape.is_some() || attributes.omits_bounds {
        return quote!(true);
    }
    let krate = &container.krate;
    let known = quote!(<#archived as #krate::SafeArchive>::HAS_SHAPE);
    if *is_generic {
        return known;
    }
    let field = match &part.name {
        Some(name) => name.clone(),
        None => part.member.to_string(),
    };
    let text = format!(
        "the type of the field `{field}` of `{}` has no shape: put `#[messageport::message]` on \
         that type, or `#[messageport(shape = \"its name and version\")]` on the field",
        unraw(&input.ident),
    );
    quote!({
        assert!(#known, #text);
        true
    })
}

/// Tokens as a text that does not depend on how a compiler prints them.
fn spaceless(tokens: &impl ToTokens) -> String {
    tokens.to_token_stream().to_string().split_whitespace().collect()
}
