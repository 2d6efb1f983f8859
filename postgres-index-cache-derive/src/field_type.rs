//! [`FieldType`]: what the derive knows of a field's type, by the way in which it is written.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{GenericArgument, Ident, PathArguments, Type, TypePath};

/// The type of a field.
#[derive(Clone)]
pub(crate) struct FieldType {
    /// The type, without the `Option` around it.
    pub(crate) inner: Type,
    /// Whether the field is an `Option` of it.
    pub(crate) is_option: bool,
    pub(crate) form: Form,
}

/// How the values of a type are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// By value: an integer, `bool`, `char` or `Uuid`.
    Copied(Held),
    /// As `&str`: `String`, or a pointer to `str`.
    Text,
    /// By reference, except for a float, which cannot be indexed.
    Float,
    /// By reference: any other type.
    Other,
}

/// The kind of a value that is handed over by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Bool,
    Char,
    Integer,
    Uuid,
}

impl FieldType {
    pub(crate) fn of(ty: &Type) -> Self {
        let ty = ungrouped(ty);
        let option = only_argument(ty, "Option");
        let inner = option.map_or(ty, ungrouped);
        Self {
            inner: inner.clone(),
            is_option: option.is_some(),
            form: form(inner),
        }
    }

    /// Returns the variant of `FieldKind` that says what the field holds.
    pub(crate) fn kind(&self) -> Ident {
        let name = match self.form {
            Form::Copied(Held::Bool) => "Bool",
            Form::Copied(Held::Integer) => "Integer",
            Form::Copied(Held::Uuid) => "Uuid",
            Form::Copied(Held::Char) | Form::Text => "Text",
            Form::Float => "Float",
            Form::Other => "Any",
        };
        format_ident!("{name}")
    }

    /// Returns the type by which a value is looked up, with this lifetime if it is borrowed.
    pub(crate) fn borrowed(&self, lifetime: &TokenStream) -> TokenStream {
        let inner = &self.inner;
        match self.form {
            Form::Copied(_) => quote!(#inner),
            Form::Text => quote!(&#lifetime str),
            Form::Float | Form::Other => quote!(&#lifetime #inner),
        }
    }

    /// Returns the type of a value that an ordered index keeps.
    pub(crate) fn owned(&self) -> TokenStream {
        let inner = &self.inner;
        match self.form {
            Form::Text => quote!(::std::string::String),
            Form::Copied(_) | Form::Float | Form::Other => quote!(#inner),
        }
    }

    /// Returns the expression that makes an owned value of a borrowed one.
    pub(crate) fn to_owned(&self, borrowed: &TokenStream) -> TokenStream {
        match self.form {
            Form::Copied(_) => quote!(#borrowed),
            Form::Text => quote!(::std::string::String::from(#borrowed)),
            Form::Float | Form::Other => quote!(::std::clone::Clone::clone(#borrowed)),
        }
    }

    /// Returns the expression that is the borrowed value of a row's field, an `Option`.
    pub(crate) fn value(&self, field: &Ident) -> TokenStream {
        match (self.form, self.is_option) {
            (Form::Copied(_), true) => quote!(__row.#field),
            (Form::Copied(_), false) => quote!(::std::option::Option::Some(__row.#field)),
            (Form::Text, true) => quote!(__row.#field.as_deref()),
            (Form::Text, false) => quote!(::std::option::Option::Some(&*__row.#field)),
            (Form::Float | Form::Other, true) => quote!(__row.#field.as_ref()),
            (Form::Float | Form::Other, false) => {
                quote!(::std::option::Option::Some(&__row.#field))
            }
        }
    }
}

/// Returns a type without the invisible group that a macro's argument stands in, and without
/// parentheses.
fn ungrouped(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            other => return other,
        };
    }
}

/// Returns how the values of a type are handed over.
fn form(ty: &Type) -> Form {
    let Some(name) = last_name(ty) else {
        return Form::Other;
    };
    match name.to_string().as_str() {
        "bool" => Form::Copied(Held::Bool),
        "char" => Form::Copied(Held::Char),
        "Uuid" => Form::Copied(Held::Uuid),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "u8" | "u16" | "u32" | "u64" | "u128"
        | "usize" => Form::Copied(Held::Integer),
        "f32" | "f64" => Form::Float,
        "String" => Form::Text,
        "Box" | "Arc" | "Rc" => match only_argument(ty, &name.to_string()) {
            Some(Type::Path(inner)) if inner.path.is_ident("str") => Form::Text,
            _ => Form::Other,
        },
        _ => Form::Other,
    }
}

/// Returns the name of a type without its path; `None` of a type that is no path.
fn last_name(ty: &Type) -> Option<&Ident> {
    let Type::Path(TypePath { qself: None, path }) = ty else {
        return None;
    };
    path.segments.last().map(|segment| &segment.ident)
}

/// Returns the `T` of `name<T>`; `None` of any other type.
fn only_argument<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let Type::Path(TypePath { qself: None, path }) = ty else {
        return None;
    };
    let last = path.segments.last().filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        GenericArgument::Type(inner) if arguments.args.len() == 1 => Some(inner),
        _ => None,
    }
}
