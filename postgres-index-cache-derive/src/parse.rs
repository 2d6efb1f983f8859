//! [`Model`]: a struct and its attributes, checked.

use crate::field_type::{FieldType, Form};
use crate::serde_attributes::{SerdeField, SerdeStruct};
use quote::ToTokens;
use std::collections::HashSet;
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Field, Fields, Ident, LitStr, Token, Visibility,
    parenthesized,
};

/// The number of indexes that a model can have: the elements of a tuple with the usual traits.
const MOST_INDEXES: usize = 12;

/// A struct whose values are the rows of a cache.
pub(crate) struct Model {
    pub(crate) name: Ident,
    pub(crate) visibility: Visibility,
    /// The name of the table, if it is given.
    pub(crate) table: Option<LitStr>,
    /// The fields of the key, in the order of the table's key.
    pub(crate) key: Vec<ModelField>,
    pub(crate) indexes: Vec<Index>,
    /// The fields that have columns; `None` if it is not known which columns are read.
    pub(crate) columns: Option<Vec<ModelField>>,
}

/// A field that is read from a column.
#[derive(Clone)]
pub(crate) struct ModelField {
    pub(crate) name: Ident,
    pub(crate) column: String,
    pub(crate) ty: FieldType,
    /// The type as it is written.
    pub(crate) written: String,
    /// Whether the column may be missing.
    pub(crate) is_optional: bool,
    /// Whether a function of its own reads the field.
    pub(crate) has_reader: bool,
}

/// An index over one field or several.
pub(crate) struct Index {
    pub(crate) fields: Vec<ModelField>,
    pub(crate) is_ordered: bool,
    pub(crate) is_unique: bool,
}

impl Index {
    /// Returns the names of the fields, joined by underscores.
    pub(crate) fn name(&self) -> String {
        let names: Vec<String> = self
            .fields
            .iter()
            .map(|field| field.name.unraw().to_string())
            .collect();
        names.join("_")
    }

    /// Returns the name in capitals: `NameHash` for `name_hash`.
    pub(crate) fn camel(&self) -> String {
        self.name().split('_').map(capitalized).collect()
    }

    /// Returns the names of the look-ups, without the `by_` in front.
    fn look_ups(&self) -> Vec<String> {
        let name = self.name();
        let mut names = vec![name.clone()];
        if self.is_ordered {
            names.extend([format!("{name}_range"), format!("{name}_prefix")]);
        }
        names
    }
}

/// Returns a word with a capital at its beginning.
fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

/// What `#[cache(…)]` on the struct says.
#[derive(Default)]
struct StructAttributes {
    table: Option<LitStr>,
    key: Option<Vec<Ident>>,
    indexes: Vec<WrittenIndex>,
}

/// An index as it is written: `index(a, b), ordered`.
struct WrittenIndex {
    fields: Vec<Ident>,
    is_ordered: bool,
    is_unique: bool,
}

/// What `#[cache(…)]` on a field says.
#[derive(Default)]
struct FieldAttributes {
    is_key: bool,
    /// The indexes; one without fields is over the field itself.
    indexes: Vec<WrittenIndex>,
    skip: Option<proc_macro2::Span>,
    rename: Option<LitStr>,
}

impl Model {
    /// Reads a struct.
    ///
    /// # Errors
    /// If an attribute is unknown, or the struct cannot be a model, at the place where that stands.
    pub(crate) fn of(input: &DeriveInput) -> syn::Result<Self> {
        let Data::Struct(data) = &input.data else {
            return Err(Error::new(
                input.ident.span(),
                "CacheModel is derived for structs: a row of a table has the same columns always",
            ));
        };
        let Fields::Named(fields) = &data.fields else {
            return Err(Error::new(
                input.ident.span(),
                "CacheModel needs a struct with named fields: a field has the name of its column",
            ));
        };
        if !input.generics.params.is_empty() {
            return Err(Error::new(
                input.generics.span(),
                "CacheModel is derived for structs without generics; implement it by hand",
            ));
        }
        let attributes = StructAttributes::of(&input.attrs)?;
        let serde = SerdeStruct::of(&input.attrs)?;
        let mut read = Vec::new();
        let mut key = Vec::new();
        let mut written = attributes.indexes;
        let mut is_opaque = serde.is_opaque;
        for field in &fields.named {
            let own = FieldAttributes::of(field)?;
            let by_serde = SerdeField::of(&field.attrs)?;
            is_opaque |= by_serde.is_opaque;
            let name = field.ident.clone().expect("a named field has a name");
            own.check(&by_serde, &serde, &name)?;
            if by_serde.is_skipped {
                if own.is_key || !own.indexes.is_empty() {
                    return Err(Error::new(
                        name.span(),
                        "a field that serde skips is not read, and can be neither key nor index",
                    ));
                }
                continue;
            }
            if own.is_key {
                key.push(name.clone());
            }
            for mut index in own.indexes {
                if index.fields.is_empty() {
                    index.fields.push(name.clone());
                }
                written.push(index);
            }
            read.push(ModelField {
                column: by_serde.column(&serde, &name),
                ty: FieldType::of(&field.ty),
                written: written_type(field),
                is_optional: by_serde.has_default || serde.has_defaults,
                has_reader: by_serde.has_reader,
                name,
            });
        }
        let key = key_fields(input, attributes.key, key, &read)?;
        let indexes = written
            .into_iter()
            .map(|index| index.checked(&read))
            .collect::<syn::Result<Vec<Index>>>()?;
        check_names(&indexes)?;
        Ok(Self {
            name: input.ident.clone(),
            visibility: input.vis.clone(),
            table: attributes.table,
            key,
            indexes,
            columns: (!is_opaque).then_some(read),
        })
    }
}

/// Returns a field's type as it is written.
fn written_type(field: &Field) -> String {
    let tokens = field.ty.to_token_stream().to_string();
    // Tokens are printed with spaces between them.
    tokens
        .replace(" < ", "<")
        .replace(" >", ">")
        .replace(" :: ", "::")
}

/// Returns the fields of the key in their order: as the struct's attribute lists them, or as the
/// fields that are marked stand.
fn key_fields(
    input: &DeriveInput,
    listed: Option<Vec<Ident>>,
    marked: Vec<Ident>,
    read: &[ModelField],
) -> syn::Result<Vec<ModelField>> {
    let names = match (listed, marked.first()) {
        (Some(_), Some(field)) => {
            return Err(Error::new(
                field.span(),
                "the struct's attribute lists the key already",
            ));
        }
        (Some(listed), None) => listed,
        (None, Some(_)) => marked,
        (None, None) => {
            return Err(Error::new(
                input.ident.span(),
                "no key: mark the fields of the table's key with #[cache(key)]",
            ));
        }
    };
    check_once(&names)?;
    let fields = names
        .iter()
        .map(|name| find(name, read))
        .collect::<syn::Result<Vec<ModelField>>>()?;
    for field in &fields {
        if field.ty.is_option {
            return Err(Error::new(
                field.name.span(),
                "a key is never null: a field of the key is no Option",
            ));
        }
        if field.ty.form == Form::Float {
            return Err(no_float(&field.name));
        }
    }
    Ok(fields)
}

/// Returns the error of a float where equal values are looked for.
fn no_float(field: &Ident) -> Error {
    Error::new(
        field.span(),
        "a float cannot be looked up: it is not always equal to itself",
    )
}

/// Checks that no field is named twice.
fn check_once(names: &[Ident]) -> syn::Result<()> {
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(Error::new(twice.span(), format!("{twice} is named twice"))),
        None => Ok(()),
    }
}

/// Finds the field of a name.
fn find(name: &Ident, read: &[ModelField]) -> syn::Result<ModelField> {
    read.iter()
        .find(|field| field.name == *name)
        .cloned()
        .ok_or_else(|| {
            Error::new(
                name.span(),
                format!("there is no field {name} that is read"),
            )
        })
}

/// Checks that no two indexes have one name, and that there are not too many.
fn check_names(indexes: &[Index]) -> syn::Result<()> {
    let mut markers = HashSet::new();
    let mut look_ups = HashSet::new();
    for (at, index) in indexes.iter().enumerate() {
        let place = index.fields[0].name.span();
        let is_new = markers.insert(index.camel());
        if !is_new
            || !index
                .look_ups()
                .into_iter()
                .all(|name| look_ups.insert(name))
        {
            let name = index.name();
            return Err(Error::new(
                place,
                format!("there are two indexes {name}, or two look-ups of one name"),
            ));
        }
        if at >= MOST_INDEXES {
            return Err(Error::new(
                place,
                format!("a model can have {MOST_INDEXES} indexes"),
            ));
        }
    }
    Ok(())
}

impl WrittenIndex {
    /// Returns the index over the fields that are read.
    fn checked(self, read: &[ModelField]) -> syn::Result<Index> {
        check_once(&self.fields)?;
        let fields = self
            .fields
            .iter()
            .map(|name| find(name, read))
            .collect::<syn::Result<Vec<ModelField>>>()?;
        if let Some(float) = fields.iter().find(|field| field.ty.form == Form::Float) {
            return Err(no_float(&float.name));
        }
        Ok(Index {
            fields,
            is_ordered: self.is_ordered,
            is_unique: self.is_unique,
        })
    }
}

impl StructAttributes {
    fn of(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut found = Self::default();
        for attribute in cache_attributes(attributes) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("table") {
                    found.table = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("key") {
                    found.key = Some(names(&meta)?);
                } else if meta.path.is_ident("index") {
                    found.indexes.push(WrittenIndex::over(names(&meta)?));
                } else {
                    option_of(
                        found.indexes.last_mut(),
                        &meta,
                        "table = \"…\", key(…), index(…)",
                    )?;
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}

impl WrittenIndex {
    fn over(fields: Vec<Ident>) -> Self {
        Self {
            fields,
            is_ordered: false,
            is_unique: false,
        }
    }
}

impl FieldAttributes {
    fn of(field: &Field) -> syn::Result<Self> {
        let mut found = Self::default();
        for attribute in cache_attributes(&field.attrs) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("key") {
                    found.is_key = true;
                } else if meta.path.is_ident("index") {
                    let lists_fields = meta.input.peek(syn::token::Paren);
                    let fields = if lists_fields {
                        names(&meta)?
                    } else {
                        Vec::new()
                    };
                    found.indexes.push(WrittenIndex::over(fields));
                } else if meta.path.is_ident("skip") {
                    found.skip = Some(meta.path.span());
                } else if meta.path.is_ident("rename") {
                    found.rename = Some(meta.value()?.parse()?);
                } else {
                    option_of(
                        found.indexes.last_mut(),
                        &meta,
                        "key, index, index(…), skip, rename = \"…\"",
                    )?;
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Checks that serde reads the field as these attributes say.
    fn check(&self, serde: &SerdeField, of: &SerdeStruct, field: &Ident) -> syn::Result<()> {
        if let Some(place) = self.skip.filter(|_| !serde.is_skipped) {
            return Err(Error::new(
                place,
                "serde reads this field from each row: write #[serde(skip)], which is followed here",
            ));
        }
        if let Some(name) = &self.rename
            && serde.column(of, field) != name.value()
        {
            return Err(Error::new(
                name.span(),
                format!(
                    "serde reads this field from {}: write #[serde(rename = {:?})], which is \
                    followed here",
                    serde.column(of, field),
                    name.value()
                ),
            ));
        }
        Ok(())
    }
}

/// Returns the attributes `#[cache(…)]`.
fn cache_attributes(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cache"))
}

/// Returns the names in `index(a, b)`.
fn names(meta: &ParseNestedMeta<'_>) -> syn::Result<Vec<Ident>> {
    if !meta.input.peek(syn::token::Paren) {
        return Err(meta.error("on the struct, its fields are listed: index(a, b), key(a, b)"));
    }
    let content;
    parenthesized!(content in meta.input);
    let names = Punctuated::<Ident, Token![,]>::parse_terminated(&content)?;
    if names.is_empty() {
        return Err(meta.error("name the fields"));
    }
    Ok(names.into_iter().collect())
}

/// Reads an option of the index that stands in front.
fn option_of(
    index: Option<&mut WrittenIndex>,
    meta: &ParseNestedMeta<'_>,
    known: &str,
) -> syn::Result<()> {
    let is_ordered = meta.path.is_ident("ordered");
    if !is_ordered && !meta.path.is_ident("unique") {
        return Err(meta.error(format!(
            "unknown; there are {known}, and ordered and unique"
        )));
    }
    let Some(index) = index else {
        return Err(meta.error("this belongs behind an index: #[cache(index, ordered)]"));
    };
    index.is_ordered |= is_ordered;
    index.is_unique |= !is_ordered;
    Ok(())
}
