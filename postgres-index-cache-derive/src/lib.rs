//! `#[derive(CacheModel)]`: the key, the indexes and the look-ups of a cache's rows, from the fields
//! of a struct. `postgres_index_cache_core::CacheModel` documents the attributes.
//!
//! ```text
//! struct ─→ parse: Model ─→ expand: impl CacheModel, a marker for each index, the trait of look-ups
//! ```
//!
//! serde reads the rows. So a column has the name that serde gives to the field, and a field that
//! serde skips has no column.

mod expand;
mod field_type;
mod parse;
mod serde_attributes;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `CacheModel`, and a trait of look-ups by the model's indexes.
#[proc_macro_derive(CacheModel, attributes(cache))]
pub fn derive_cache_model(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    parse::Model::of(&input)
        .map_or_else(syn::Error::into_compile_error, |model| {
            expand::expand(&model)
        })
        .into()
}
