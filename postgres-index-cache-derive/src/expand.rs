//! The code that the derive writes.
//!
//! Each index has a marker type, an empty enum, that says how the index's value is taken of a row.
//! The look-ups are methods of a trait, so that a misspelt index does not compile.

use crate::field_type::Form;
use crate::parse::{Index, Model, ModelField};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Ident, Index as Position};

/// Returns everything that is derived of a model.
pub(crate) fn expand(model: &Model) -> TokenStream {
    let markers = model.indexes.iter().map(|index| marker(model, index));
    let implementation = implementation(model);
    let table = table(model);
    let lookups = lookups(model);
    quote! {
        #(#markers)*
        #implementation
        #table
        #lookups
    }
}

/// Returns the name of an index's marker: `UserByNameHash` for `name_hash` of `User`.
fn marker_name(model: &Model, index: &Index) -> Ident {
    format_ident!("{}By{}", model.name.unraw(), index.camel())
}

/// Returns the marker of an index, which takes the index's value of a row.
fn marker(model: &Model, index: &Index) -> TokenStream {
    let Model {
        name, visibility, ..
    } = model;
    let marker = marker_name(model, index);
    let fields: Vec<&Ident> = index.fields.iter().map(|field| &field.name).collect();
    let values = index.fields.iter().map(|field| field.ty.value(&field.name));
    let taken = quote!(#(let #fields = #values?;)*);
    let implementation = if index.is_ordered {
        let types = index.fields.iter().map(|field| field.ty.owned());
        let owned = index
            .fields
            .iter()
            .map(|field| field.ty.to_owned(&name_of(field)));
        let value_type = tuple(types);
        let value = tuple(owned);
        quote! {
            impl ::postgres_index_cache_core::OrderedField for #marker {
                type Row = #name;
                type Value = #value_type;

                fn value(__row: &#name) -> ::std::option::Option<Self::Value> {
                    #taken
                    ::std::option::Option::Some(#value)
                }
            }
        }
    } else {
        let types = index
            .fields
            .iter()
            .map(|field| field.ty.borrowed(&quote!('r)));
        let value_type = tuple(types);
        let value = tuple(index.fields.iter().map(name_of));
        quote! {
            impl ::postgres_index_cache_core::IndexField for #marker {
                type Row = #name;
                type Value<'r> = #value_type;

                fn value(__row: &#name) -> ::std::option::Option<Self::Value<'_>> {
                    #taken
                    ::std::option::Option::Some(#value)
                }
            }
        }
    };
    quote! {
        #[doc(hidden)]
        #[derive(Debug)]
        #visibility enum #marker {}

        #[automatically_derived]
        #implementation
    }
}

fn name_of(field: &ModelField) -> TokenStream {
    let name = &field.name;
    quote!(#name)
}

/// Returns the parts as a tuple, or the one part alone.
fn tuple(parts: impl Iterator<Item = TokenStream>) -> TokenStream {
    let parts: Vec<TokenStream> = parts.collect();
    match parts.as_slice() {
        [only] => only.clone(),
        several => quote!((#(#several),*)),
    }
}

/// Returns the implementation of `CacheModel`.
fn implementation(model: &Model) -> TokenStream {
    let name = &model.name;
    let key_types = model.key.iter().map(|field| {
        let ty = &field.ty.inner;
        quote!(#ty)
    });
    let key_type = tuple(key_types);
    let key_values = model.key.iter().map(|field| {
        let name = &field.name;
        quote!(::std::clone::Clone::clone(&self.#name))
    });
    let key_value = tuple(key_values);
    // A struct that is read otherwise than field by field may read its key from other columns.
    let key_columns = model.columns.as_ref().map(|_| {
        let columns = model.key.iter().map(|field| &field.column);
        quote! {
            const KEY_COLUMNS: ::std::option::Option<&'static [&'static str]> =
                ::std::option::Option::Some(&[#(#columns),*]);
        }
    });
    let indexes = model.indexes.iter().map(|index| {
        let marker = marker_name(model, index);
        if index.is_ordered {
            quote!(::postgres_index_cache_core::OrderedIndex<#marker>)
        } else {
            quote!(::postgres_index_cache_core::HashIndex<#marker>)
        }
    });
    let columns = model.columns.as_ref().map(|columns| {
        let columns = columns.iter().map(column);
        quote! {
            const COLUMNS: ::std::option::Option<
                &'static [::postgres_index_cache_core::ModelColumn],
            > = ::std::option::Option::Some(&[#(#columns),*]);
        }
    });
    quote! {
        #[automatically_derived]
        impl ::postgres_index_cache_core::CacheModel for #name {
            type Key = #key_type;
            type Indexes = (#(#indexes,)*);

            #columns
            #key_columns

            fn key(&self) -> Self::Key {
                #key_value
            }
        }
    }
}

/// Returns the description of the column that a field is read from.
fn column(field: &ModelField) -> TokenStream {
    let name = field.name.unraw().to_string();
    let ModelField {
        column,
        written,
        is_optional,
        ..
    } = field;
    let kind = if field.has_reader {
        format_ident!("Any")
    } else {
        field.ty.kind()
    };
    quote! {
        ::postgres_index_cache_core::ModelColumn {
            field: #name,
            column: #column,
            field_type: #written,
            holds: ::postgres_index_cache_core::FieldKind::#kind,
            is_optional: #is_optional,
        }
    }
}

/// Returns the implementation of `TableModel`, if the table is named.
fn table(model: &Model) -> TokenStream {
    let name = &model.name;
    let implementation = model.table.as_ref().map(|table| {
        quote! {
            #[automatically_derived]
            impl ::postgres_index_cache_core::TableModel for #name {
                const TABLE: &'static str = #table;
            }
        }
    });
    quote!(#implementation)
}

/// A look-up by an index: its declaration in the trait, and its body.
struct LookUp {
    doc: String,
    signature: TokenStream,
    body: TokenStream,
}

/// Returns the trait of the look-ups and its implementation, if the model has an index.
fn lookups(model: &Model) -> TokenStream {
    if model.indexes.is_empty() {
        return TokenStream::new();
    }
    let Model {
        name, visibility, ..
    } = model;
    let trait_name = format_ident!("{}Lookup", name.unraw());
    let doc = format!("Look-ups in a cache of [`{name}`] by its indexes.");
    let lookups: Vec<LookUp> = model
        .indexes
        .iter()
        .enumerate()
        .flat_map(|(at, index)| lookups_of(model, at, index))
        .collect();
    let docs = lookups.iter().map(|lookup| &lookup.doc);
    let signatures: Vec<&TokenStream> = lookups.iter().map(|lookup| &lookup.signature).collect();
    let bodies = lookups.iter().map(|lookup| &lookup.body);
    quote! {
        #[doc = #doc]
        #[allow(dead_code, reason = "a program need not use every index")]
        #visibility trait #trait_name {
            #(#[doc = #docs] #signatures;)*
        }

        #[automatically_derived]
        impl #trait_name for ::postgres_index_cache_core::IdxModelCache<#name> {
            #(#signatures { #bodies })*
        }
    }
}

/// Returns the look-ups by one index, which is the model's index number `at`.
fn lookups_of(model: &Model, at: usize, index: &Index) -> Vec<LookUp> {
    let name = &model.name;
    let method = format_ident!("by_{}", index.name());
    let fields: Vec<&Ident> = index.fields.iter().map(|field| &field.name).collect();
    let columns: Vec<&str> = index
        .fields
        .iter()
        .map(|field| field.column.as_str())
        .collect();
    let columns = columns.join("` and `");
    let arguments = index.fields.iter().map(|field| {
        let name = &field.name;
        let ty = field.ty.borrowed(&TokenStream::new());
        quote!(#name: #ty)
    });
    let place = Position::from(at);
    let choose = quote!(|indexes| &indexes.#place);
    let rows = if index.is_ordered {
        let wanted = wanted(index);
        quote!(self.find_ordered(#choose, #wanted))
    } else {
        let value = tuple(fields.iter().map(|field| quote!(#field)));
        quote!(self.find(#choose, #value))
    };
    let (result, body, doc) = if index.is_unique {
        (
            quote!(::std::option::Option<&#name>),
            quote!(#rows.next()),
            format!(
                "Returns the row whose `{columns}` has this value. While a transaction that \
                exchanges values is applied, there may be two; one of them is returned."
            ),
        )
    } else {
        (
            quote!(::postgres_index_cache_core::Rows<'_, #name>),
            rows,
            format!("Returns the rows whose `{columns}` has this value."),
        )
    };
    let mut lookups = vec![LookUp {
        doc,
        signature: quote!(fn #method(&self, #(#arguments),*) -> #result),
        body,
    }];
    if index.is_ordered {
        lookups.extend(ranges_of(model, index, &choose, &columns));
    }
    lookups
}

/// Returns the reference by which an ordered index is asked for one value.
fn wanted(index: &Index) -> TokenStream {
    match index.fields.as_slice() {
        [only] => {
            let name = &only.name;
            match only.ty.form {
                Form::Copied(_) => quote!(&#name),
                Form::Text | Form::Float | Form::Other => quote!(#name),
            }
        }
        several => {
            let owned = several
                .iter()
                .map(|field| field.ty.to_owned(&name_of(field)));
            let value = tuple(owned);
            quote!(&#value)
        }
    }
}

/// Returns the look-ups of an ordered index for many values.
fn ranges_of(model: &Model, index: &Index, choose: &TokenStream, columns: &str) -> Vec<LookUp> {
    let marker = marker_name(model, index);
    let range = format_ident!("by_{}_range", index.name());
    let result = quote!(::postgres_index_cache_core::OrderedRows<'_, #marker>);
    let doc = format!(
        "Returns the rows whose `{columns}` lies in `range`, in that order. The first has the least \
        value, and the last (`next_back`) the greatest."
    );
    let is_text = matches!(index.fields.as_slice(), [only] if only.ty.form == Form::Text);
    if !is_text {
        let value = tuple(index.fields.iter().map(|field| field.ty.owned()));
        return vec![LookUp {
            doc,
            signature: quote!(
                fn #range(&self, range: impl ::std::ops::RangeBounds<#value>) -> #result
            ),
            body: quote!(self.range(#choose, range)),
        }];
    }
    let prefix = format_ident!("by_{}_prefix", index.name());
    vec![
        LookUp {
            doc,
            signature: quote!(
                fn #range<'q>(&self, range: impl ::std::ops::RangeBounds<&'q str>) -> #result
            ),
            body: quote! {
                let start = ::std::ops::RangeBounds::start_bound(&range).map(|text| *text);
                let end = ::std::ops::RangeBounds::end_bound(&range).map(|text| *text);
                self.range::<#marker, str>(#choose, (start, end))
            },
        },
        LookUp {
            doc: format!(
                "Returns the rows whose `{columns}` begins with `prefix`, in the order of the texts."
            ),
            signature: quote!(fn #prefix(&self, prefix: &str) -> #result),
            body: quote!(self.prefix(#choose, prefix)),
        },
    ]
}
