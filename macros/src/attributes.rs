//! What `#[rkyv(..)]` and `#[messageport(..)]` say.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::{
    Attribute, DeriveInput, Error, LitStr, Path, Token, Type, WherePredicate, parenthesized,
    parse_quote,
};

/// Attributes of the type.
pub struct Container {
    /// The path of the crate `messageport`.
    pub krate: Path,
    /// The archived type's name, if it is not the usual one.
    pub archived: Option<Ident>,
    pub archive_bounds: Vec<WherePredicate>,
    /// What is said about the type's shape, if it has one.
    pub shape: Option<ShapeOfType>,
}

/// What a type calls itself where two programs compare their types.
#[derive(Default)]
pub struct ShapeOfType {
    /// In place of its own name.
    pub name: Option<LitStr>,
    /// In place of everything in it.
    pub literal: Option<LitStr>,
}

/// Attributes of a field, and its type.
pub struct Field {
    pub ty: Type,
    pub with: Option<Type>,
    pub omits_bounds: bool,
    /// The text that stands for the shape of its type.
    pub shape: Option<LitStr>,
}

impl Container {
    pub fn parse(input: &DeriveInput) -> Result<Container, Error> {
        let mut found = Container {
            krate: parse_quote!(::messageport),
            archived: None,
            archive_bounds: Vec::new(),
            shape: None,
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
                 archived type may be of other types; archive a type of your own in its place, \
                 or write a wrapper for `#[rkyv(with = ..)]`",
            ));
        } else {
            skip(meta)?;
        }
        Ok(())
    }

    fn messageport(&mut self, meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
        if meta.path.is_ident("crate") {
            self.krate = meta.value()?.call(Path::parse_mod_style)?;
        } else if meta.path.is_ident("fingerprint") {
            self.shape.get_or_insert_default();
        } else if meta.path.is_ident("name") {
            let name: LitStr = meta.value()?.parse()?;
            if syn::parse_str::<Ident>(&name.value()).is_err() {
                return Err(Error::new(name.span(), "expected the name of a type, like \"Order\""));
            }
            self.shape.get_or_insert_default().name = Some(name);
        } else if meta.path.is_ident("shape") {
            self.shape.get_or_insert_default().literal = Some(literal(meta)?);
        } else {
            let text = "expected `fingerprint`, `name = \"..\"`, `shape = \"..\"` or \
                        `crate = path::of::messageport`";
            return Err(meta.error(text));
        }
        Ok(())
    }
}

impl Field {
    pub fn parse(field: &syn::Field) -> Result<Field, Error> {
        let mut found =
            Field { ty: field.ty.clone(), with: None, omits_bounds: false, shape: None };
        for attribute in &field.attrs {
            if attribute.path().is_ident("rkyv") {
                attribute.parse_nested_meta(|meta| found.rkyv(&meta))?;
            } else if attribute.path().is_ident("messageport") {
                attribute.parse_nested_meta(|meta| {
                    if !meta.path.is_ident("shape") {
                        return Err(meta.error("expected `shape = \"a name and a version\"`"));
                    }
                    found.shape = Some(literal(&meta)?);
                    Ok(())
                })?;
            }
        }
        Ok(found)
    }

    fn rkyv(&mut self, meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
        if meta.path.is_ident("with") {
            self.with = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("niche") && meta.input.peek(Token![=]) {
            meta.value()?.parse::<Type>()?;
        } else if meta.path.is_ident("omit_bounds") {
            self.omits_bounds = true;
        } else {
            skip(meta)?;
        }
        Ok(())
    }
}

/// A text that stands for a shape.
fn literal(meta: &ParseNestedMeta<'_>) -> Result<LitStr, Error> {
    let literal: LitStr = meta.value()?.parse()?;
    let text = literal.value();
    let is_plain = |char: char| !char.is_control() && char != '"' && char != '\\';
    if text.is_empty() || text.len() > MOST_OF_LITERAL || !text.chars().all(is_plain) {
        let text = format!(
            "expected 1 to {MOST_OF_LITERAL} bytes without quotes, backslashes and line breaks, \
             like \"calendar::Date 1\""
        );
        return Err(Error::new(literal.span(), text));
    }
    Ok(literal)
}

/// Most bytes of a text that stands for a shape: several fit where a peer looks for them.
const MOST_OF_LITERAL: usize = 100;

/// Skips what an attribute contains that does not matter here.
pub fn skip(meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
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
