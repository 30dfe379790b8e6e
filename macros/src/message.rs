//! `#[message]`: what it adds to a type.

use crate::{attributes, recursion};
use proc_macro2::{TokenStream, TokenTree};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DeriveInput, Error, Meta, Path, Token, parse_quote};

/// What stands in the parentheses of the attribute.
pub struct Arguments {
    /// The path of the crate `messageport`.
    krate: Option<Path>,
    no_deserialize: bool,
    /// What the derive of `SafeArchive` reads.
    passed_on: Vec<Meta>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Arguments, Error> {
        let mut found = Arguments { krate: None, no_deserialize: false, passed_on: Vec::new() };
        while !input.is_empty() {
            if input.peek(Token![crate]) {
                input.parse::<Token![crate]>()?;
                input.parse::<Token![=]>()?;
                found.krate = Some(input.call(Path::parse_mod_style)?);
            } else {
                found.meta(input.parse()?)?;
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(found)
    }
}

impl Arguments {
    fn meta(&mut self, meta: Meta) -> Result<(), Error> {
        match &meta {
            Meta::Path(path) if path.is_ident("no_deserialize") => self.no_deserialize = true,
            Meta::NameValue(pair) if pair.path.is_ident("name") || pair.path.is_ident("shape") => {
                self.passed_on.push(meta);
            }
            other => {
                let text = "expected `name = \"..\"`, `shape = \"..\"`, `no_deserialize` or \
                            `crate = path::of::messageport`";
                return Err(Error::new_spanned(other, text));
            }
        }
        Ok(())
    }
}

/// The type with its derives.
pub fn expand(arguments: &Arguments, item: &DeriveInput) -> Result<TokenStream, Error> {
    if let Data::Union(_) = item.data {
        return Err(Error::new_spanned(item, "a message is a struct or an enum, not a union"));
    }
    let passed_on = &arguments.passed_on;
    let (krate, named_here) = match &arguments.krate {
        Some(krate) => (krate.clone(), Some(quote!(crate = #krate,))),
        None => (crate_of(&item.attrs)?, None),
    };
    let rkyv = quote!(#krate::rkyv);
    let rkyv_crate = match names_crate(&item.attrs)? {
        true => None,
        false => Some(quote!(#[rkyv(crate = #rkyv)])),
    };
    let deserialize = match arguments.no_deserialize {
        true => None,
        false => Some(quote!(#rkyv::Deserialize,)),
    };
    let mut item = item.clone();
    let bounds = recursion::omit_bounds(&mut item, &rkyv)?;
    Ok(quote! {
        #[derive(#rkyv::Archive, #rkyv::Serialize, #deserialize #krate::SafeArchive)]
        #rkyv_crate
        #bounds
        #[messageport(#named_here fingerprint #(, #passed_on)*)]
        #item
    })
}

/// The path of the crate that `#[messageport(crate = ..)]` names.
fn crate_of(attributes: &[Attribute]) -> Result<Path, Error> {
    let mut krate: Path = parse_quote!(::messageport);
    for attribute in attributes.iter().filter(|it| it.path().is_ident("messageport")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                krate = meta.value()?.call(Path::parse_mod_style)?;
                return Ok(());
            }
            attributes::skip(&meta)
        })?;
    }
    Ok(krate)
}

/// Whether a `#[rkyv(..)]` attribute of the user's says where rkyv is.
fn names_crate(attributes: &[Attribute]) -> Result<bool, Error> {
    let mut is_named = false;
    for attribute in attributes.iter().filter(|it| it.path().is_ident("rkyv")) {
        let Meta::List(list) = &attribute.meta else { continue };
        let metas = list.parse_args_with(|input: ParseStream<'_>| {
            Punctuated::<Argument, Token![,]>::parse_terminated(input)
        })?;
        is_named |= metas.iter().any(|argument| argument.is_crate);
    }
    Ok(is_named)
}

/// One argument of an rkyv attribute, of which only its first word matters.
struct Argument {
    is_crate: bool,
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> Result<Argument, Error> {
        let is_crate = input.peek(Token![crate]);
        while !input.is_empty() && !input.peek(Token![,]) {
            input.parse::<TokenTree>()?;
        }
        Ok(Argument { is_crate })
    }
}
