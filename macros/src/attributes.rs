//! What `#[rkyv(..)]` and `#[messageport(..)]` say.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::{
    Attribute, DeriveInput, Error, Path, Token, Type, WherePredicate, parenthesized, parse_quote,
};

/// Attributes of the type.
pub struct Container {
    /// The path of the crate `messageport`.
    pub krate: Path,
    /// The archived type's name, if it is not the usual one.
    pub archived: Option<Ident>,
    pub archive_bounds: Vec<WherePredicate>,
}

/// Attributes of a field, and its type.
pub struct Field {
    pub ty: Type,
    pub with: Option<Type>,
    pub omits_bounds: bool,
}

impl Container {
    pub fn parse(input: &DeriveInput) -> Result<Container, Error> {
        let mut found = Container {
            krate: parse_quote!(::messageport),
            archived: None,
            archive_bounds: Vec::new(),
        };
        for attribute in &input.attrs {
            if attribute.path().is_ident("rkyv") {
                attribute.parse_nested_meta(|meta| found.rkyv(&meta))?;
            } else if attribute.path().is_ident("messageport") {
                attribute.parse_nested_meta(|meta| found.messageport(&meta))?;
            }
            refuse_packed(attribute)?;
        }
        Ok(found)
    }

    fn rkyv(&mut self, meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
        if meta.path.is_ident("archived") {
            self.archived = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("archive_bounds") {
            let bounds;
            parenthesized!(bounds in meta.input);
            let bounds = Punctuated::<WherePredicate, Token![,]>::parse_terminated(&bounds)?;
            self.archive_bounds.extend(bounds);
        } else if meta.path.is_ident("as") {
            return Err(meta.error(
                "SafeArchive cannot be derived with `#[rkyv(as = ..)]`: no archived type is made; \
                 derive or implement SafeArchive for the type that is named there",
            ));
        } else if meta.path.is_ident("remote") {
            return Err(meta.error(
                "SafeArchive cannot be derived with `#[rkyv(remote = ..)]`: the fields of the \
                 archived type may be of other types; archive a type of your own in its place",
            ));
        } else {
            skip(meta)?;
        }
        Ok(())
    }

    fn messageport(&mut self, meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
        if !meta.path.is_ident("crate") {
            return Err(meta.error("expected `crate = path::of::messageport`"));
        }
        self.krate = meta.value()?.call(Path::parse_mod_style)?;
        Ok(())
    }
}

impl Field {
    pub fn parse(field: &syn::Field) -> Result<Field, Error> {
        let mut found = Field { ty: field.ty.clone(), with: None, omits_bounds: false };
        for attribute in &field.attrs {
            if !attribute.path().is_ident("rkyv") {
                continue;
            }
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("with") {
                    found.with = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("niche") && meta.input.peek(Token![=]) {
                    meta.value()?.parse::<Type>()?;
                } else if meta.path.is_ident("omit_bounds") {
                    found.omits_bounds = true;
                } else {
                    skip(&meta)?;
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}

/// Skips what an rkyv attribute contains that does not matter here.
fn skip(meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
    while !meta.input.is_empty() && !meta.input.peek(Token![,]) {
        meta.input.parse::<TokenTree>()?;
    }
    Ok(())
}

/// A field of a packed type cannot be borrowed, and so not be checked.
fn refuse_packed(attribute: &Attribute) -> Result<(), Error> {
    let is_relevant = ["repr", "rkyv"].iter().any(|name| attribute.path().is_ident(name));
    if is_relevant && names_any(&attribute.meta.to_token_stream(), &["packed".to_owned()]) {
        let text = "SafeArchive cannot be derived for a packed type: its fields cannot be borrowed";
        return Err(Error::new_spanned(attribute, text));
    }
    Ok(())
}

/// Whether one of `names` stands anywhere in `tokens`.
pub fn names_any(tokens: &TokenStream, names: &[String]) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.iter().any(|name| ident == name),
        TokenTree::Group(group) => names_any(&group.stream(), names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
