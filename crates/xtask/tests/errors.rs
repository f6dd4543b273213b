//! An error's `Display` says its own layer's part and never embeds its source: the chain is printed once, at
//! the top.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::visit::Visit;
use syn::{Attribute, Field, Fields, Item, LitStr, Type};

/// The errors of one file that embed their source.
struct Errors<'a> {
    path: &'a str,
    /// How many errors were looked at that have a source.
    with_source: usize,
    found: Vec<String>,
}

impl Errors<'_> {
    /// One struct or variant with its attributes and fields.
    fn check(&mut self, name: &str, attributes: &[Attribute], fields: &Fields) {
        let Some(text) = attributes.iter().filter(|one| one.path().is_ident("error")).find_map(message)
        else {
            return;
        };
        for (number, field) in fields.iter().enumerate().filter(|(_, field)| is_source(field)) {
            self.with_source += 1;
            let name_of_field = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            if [format!("{{{name_of_field}}}"), format!("{{{name_of_field}:")]
                .iter()
                .any(|part| text.contains(part))
            {
                self.found.push(format!("{}: {name}: {text:?} embeds its source {name_of_field}", self.path));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Errors<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Struct(item) => self.check(&item.ident.to_string(), &item.attrs, &item.fields),
            Item::Enum(item) => {
                for variant in &item.variants {
                    self.check(
                        &format!("{}::{}", item.ident, variant.ident),
                        &variant.attrs,
                        &variant.fields,
                    );
                }
            }
            _ => {}
        }
        syn::visit::visit_item(self, item);
    }
}

/// The format of `#[error("...")]`; `None` if it is transparent.
fn message(attribute: &Attribute) -> Option<String> {
    let text = |input: syn::parse::ParseStream<'_>| {
        let text: LitStr = input.parse()?;
        // Arguments of the format.
        input.parse::<proc_macro2::TokenStream>()?;
        Ok(text.value())
    };
    attribute.parse_args_with(text).ok()
}

/// As thiserror finds a source, by attribute or by the name of the field; or a type that is an error by its
/// name.
fn is_source(field: &Field) -> bool {
    let has = |name| field.attrs.iter().any(|attribute| attribute.path().is_ident(name));
    let is_error = match &field.ty {
        Type::Path(path) => {
            path.path.segments.last().is_some_and(|last| last.ident.to_string().ends_with("Error"))
        }
        _ => false,
    };
    has("source") || has("from") || is_error || field.ident.as_ref().is_some_and(|name| name == "source")
}

#[test]
fn no_error_embeds_its_source_in_its_text() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output =
        Command::new("git").args(["ls-files", "*.rs"]).current_dir(&root).output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut found, mut with_source) = (Vec::new(), 0);
    for path in String::from_utf8(output.stdout).expect("paths are UTF-8").lines() {
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut errors = Errors { path, with_source: 0, found: Vec::new() };
        errors.visit_file(&file);
        with_source += errors.with_source;
        found.append(&mut errors.found);
    }
    assert!(with_source > 10, "only {with_source} errors with a source were found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
