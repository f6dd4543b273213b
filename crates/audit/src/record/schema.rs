//! The JSON Schema of a record, generated from its types, and the reference in the documentation, generated
//! from the schema. Tests compare both with the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::Record;

pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

pub(super) fn verdict(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["allow", "deny"]})
}

pub(super) fn direction(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["ingress", "egress"]})
}

pub(super) fn miss(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["port", "peer"]})
}

pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Admin", "NetworkPolicy", "Baseline"]})
}

pub(super) fn policy_kind(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "enum": ["NetworkPolicy", "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"],
    })
}

pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// The file of the schema, from the root of the workspace.
const FILE: &str = "docs/audit/record.schema.json";
/// The documentation that contains the reference.
const REFERENCE: &str = "docs/audit.md";
/// The lines around the reference.
const MARKS: [&str; 2] = ["<!-- generated: the record's fields -->\n", "<!-- end -->\n"];

fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Record>().to_value();
    schema["$id"] = "https://kube-verdict.io/schemas/audit/record-1.json".into();
    tidy(&mut schema);
    schema
}

/// A field without a value is absent: it is never null, unless it is required. A description is one line.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            let required = fields.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                let optional =
                    properties.iter_mut().filter(|(name, _)| !required.contains(&(**name).clone().into()));
                optional.for_each(|(_, property)| remove_null(property));
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn remove_null(property: &mut Value) {
    let Value::Object(fields) = property else { return };
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            fields.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(forms)) = fields.get_mut("anyOf") {
        forms.retain(|form| form["type"] != "null");
        if let [Value::Object(form)] = forms.as_slice() {
            let form = form.clone();
            fields.remove("anyOf");
            fields.extend(form);
        }
    }
}

fn in_workspace(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)
}

/// Compares a file with its expected content, or writes it if UPDATE_EXPECTED is set.
fn compare(file: &str, expected: &str) {
    let path = in_workspace(file);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
        return fs::write(&path, expected).expect("writes");
    }
    let found =
        fs::read_to_string(&path).expect("the file; write it with UPDATE_EXPECTED=1 cargo test -p audit");
    assert!(found == expected, "{file} is stale: UPDATE_EXPECTED=1 cargo test -p audit schema");
}

#[test]
fn the_published_schema_is_that_of_the_type() {
    let text = serde_json::to_string_pretty(&schema()).expect("JSON");
    compare(FILE, &(text + "\n"));
}

#[test]
fn the_reference_describes_every_field() {
    let page = fs::read_to_string(in_workspace(REFERENCE)).expect("the page");
    let (before, rest) = page.split_once(MARKS[0]).expect("the first mark");
    let (_, after) = rest.split_once(MARKS[1]).expect("the last mark");
    let reference = reference(&schema());
    compare(REFERENCE, &format!("{before}{}{reference}{}{after}", MARKS[0], MARKS[1]));
}

/// One table of the fields that all records have, one for each event, and one for each type in them.
fn reference(schema: &Value) -> String {
    let mut text = String::from("\n### Every record\n\n");
    text += &table(schema);
    let types = schema["$defs"].as_object().expect("types");
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for event in schema["oneOf"].as_array().expect("events") {
        let name = event["properties"]["event"]["const"].as_str().expect("a name");
        let of = event["$ref"].as_str().expect("a type").rsplit('/').next().expect("a name");
        let what = event["description"].as_str().expect("a description");
        sections.entry(of).or_default().push(format!("`{name}`: {what}"));
    }
    for (of, events) in &sections {
        let names: Vec<&str> = events.iter().filter_map(|event| event.split(':').next()).collect();
        text += &format!("\n### {}\n\n{}\n\n{}", names.join(", "), events.join("\n\n"), table(&types[*of]));
    }
    for (name, of) in types
        .iter()
        .filter(|(name, of)| !sections.contains_key(name.as_str()) && of["properties"].is_object())
    {
        text += &format!(
            "\n### Type {name}\n\n{}\n\n{}",
            of["description"].as_str().unwrap_or_default(),
            table(of)
        );
    }
    text + "\n"
}

fn table(of: &Value) -> String {
    let required = of["required"].as_array().cloned().unwrap_or_default();
    let mut rows = String::from("| field | form | always | meaning |\n| --- | --- | --- | --- |\n");
    for (name, property) in of["properties"].as_object().expect("properties") {
        let always = if required.contains(&name.as_str().into()) { "yes" } else { "" };
        let meaning = property["description"].as_str().expect("a description");
        rows += &format!("| `{name}` | {} | {always} | {meaning} |\n", form(property));
    }
    rows
}

/// The form of a value in words.
fn form(property: &Value) -> String {
    if let Some(of) = property["$ref"].as_str() {
        return of.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if let Some(forms) = property["anyOf"].as_array() {
        return forms.iter().map(form).collect::<Vec<_>>().join(" or ");
    }
    if let Some(names) = property["enum"].as_array() {
        return names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    }
    match &property["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", form(&property["items"])),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => panic!("a form without a type: {property}"),
    }
}

/// Checks that a record has the form that the schema gives it, and no field that the schema lacks.
pub(crate) fn validate(record: &Value) {
    static SCHEMA: LazyLock<Value> = LazyLock::new(schema);
    let schema = &*SCHEMA;
    let fields = record.as_object().expect("an object");
    let event = schema["oneOf"]
        .as_array()
        .expect("events")
        .iter()
        .find(|event| event["properties"]["event"]["const"] == fields["event"]);
    let event = event.unwrap_or_else(|| panic!("no event of the schema: {record}"));
    let of = resolve(schema, event);
    let mut properties = Map::new();
    for part in [schema, event, of] {
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        for name in part["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(fields.contains_key(name), "{name} is missing: {record}");
        }
    }
    for (name, value) in fields {
        let property =
            properties.get(name).unwrap_or_else(|| panic!("{name} is not in the schema: {record}"));
        check(schema, property, value, name);
    }
}

fn resolve<'a>(schema: &'a Value, of: &'a Value) -> &'a Value {
    match of["$ref"].as_str() {
        Some(name) => schema.pointer(name.trim_start_matches('#')).expect("a type"),
        None => of,
    }
}

/// The keywords that [`check`] understands, and those that only describe.
const KEYWORDS: [&str; 15] = [
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "oneOf",
    "$ref",
    "minimum",
    "maximum",
    "format",
    "description",
    "default",
];

fn check(schema: &Value, of: &Value, value: &Value, path: &str) {
    if let Err(why) = fits(schema, of, value) {
        panic!("{path}: {why}: {value} is not {of}");
    }
}

fn fits(schema: &Value, of: &Value, value: &Value) -> Result<(), String> {
    for keyword in of.as_object().expect("a schema").keys() {
        assert!(KEYWORDS.contains(&keyword.as_str()), "a keyword that is not checked: {keyword}");
    }
    if of["$ref"].is_string() {
        fits(schema, resolve(schema, of), value)?;
    }
    for forms in [&of["anyOf"], &of["oneOf"]].into_iter().filter_map(Value::as_array) {
        if !forms.iter().any(|form| fits(schema, form, value).is_ok()) {
            return Err("none of the forms".to_owned());
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_kind = match &of["type"] {
        Value::String(wanted) => wanted == kind,
        Value::Array(wanted) => wanted.contains(&kind.into()),
        _ => true,
    };
    if !is_kind {
        return Err(format!("it is a {kind}"));
    }
    let is_named = of["enum"].as_array().is_none_or(|names| names.contains(value));
    if !is_named || of.get("const").is_some_and(|only| only != value) {
        return Err("another value".to_owned());
    }
    let number = value.as_f64();
    if of["maximum"].as_f64().zip(number).is_some_and(|(most, number)| number > most)
        || of["minimum"].as_f64().zip(number).is_some_and(|(least, number)| number < least)
    {
        return Err("out of range".to_owned());
    }
    if of["format"] == "date-time"
        && value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_err())
    {
        return Err("no time".to_owned());
    }
    for item in value.as_array().into_iter().flatten() {
        fits(schema, &of["items"], item)?;
    }
    if let (Value::Object(fields), Some(properties)) = (value, of["properties"].as_object()) {
        for name in of["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return Err(format!("{name} is missing"));
            }
        }
        for (name, field) in fields {
            fits(schema, properties.get(name).ok_or_else(|| format!("{name} is unknown"))?, field)?;
        }
    }
    Ok(())
}
