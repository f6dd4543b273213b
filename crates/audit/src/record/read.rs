//! Reads a record. The writer puts `event` before the event's own fields, so these are read directly. If
//! another program has reordered the fields, those before `event` are kept until it is known.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::value::{CowStrDeserializer, MapAccessDeserializer};
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Event, Record, SCHEMA, form};
use crate::json_text::JsonText;

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an audit record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut head = Head::default();
        let mut early = Map::new();
        let event = loop {
            let Some(JsonText(key)) = map.next_key()? else { return Err(A::Error::missing_field("event")) };
            if key == "event" {
                break map.next_value::<EventName>()?;
            }
            if !head.take(&key, &mut map)? {
                early.insert(key.into_owned(), map.next_value()?);
            }
        };
        let event = if early.is_empty() {
            event.read(MapAccessDeserializer::new(Rest { map, head: &mut head, next: None }))?
        } else {
            while let Some(JsonText(key)) = map.next_key()? {
                if !head.take(&key, &mut map)? {
                    early.insert(key.into_owned(), map.next_value()?);
                }
            }
            event.read(Value::Object(early)).map_err(A::Error::custom)?
        };
        head.record(event)
    }
}

/// The fields that all records have.
#[derive(Default)]
struct Head {
    schema: Option<u32>,
    seq: Option<u64>,
    instance: Option<Arc<str>>,
    node: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    time: Option<Timestamp>,
}

impl Head {
    /// Reads the value if the key is one of these fields. Returns whether it is.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        match key {
            "schema" => {
                let schema = map.next_value()?;
                if schema != SCHEMA {
                    return Err(A::Error::custom(format_args!(
                        "its schema is {schema}, this program reads {SCHEMA}: use the version of the program \
                         that wrote it"
                    )));
                }
                self.schema = Some(schema);
            }
            "seq" => self.seq = Some(map.next_value()?),
            "instance" => self.instance = Some(map.next_value()?),
            "node" => self.node = Some(map.next_value()?),
            "cluster" => self.cluster = map.next_value()?,
            "time" => self.time = Some(map.next_value::<Time>()?.0),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn record<E: Error>(self, event: Event) -> Result<Record, E> {
        let Self { schema, seq, instance, node, cluster, time } = self;
        Ok(Record {
            schema: schema.ok_or_else(|| E::missing_field("schema"))?,
            seq: seq.ok_or_else(|| E::missing_field("seq"))?,
            instance: instance.ok_or_else(|| E::missing_field("instance"))?,
            node: node.ok_or_else(|| E::missing_field("node"))?,
            cluster,
            time: time.ok_or_else(|| E::missing_field("time"))?,
            event,
        })
    }
}

/// The values of the field `event`.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EventName {
    Connection,
    Revoked,
    Restored,
    Lost,
    Bypass,
    Dropped,
    Policy,
    Pod,
    Repeated,
    Start,
    Stop,
}

impl EventName {
    fn read<'de, D: Deserializer<'de>>(self, fields: D) -> Result<Event, D::Error> {
        Ok(match self {
            Self::Connection => Event::Connection(Deserialize::deserialize(fields)?),
            Self::Revoked => Event::Revoked(Deserialize::deserialize(fields)?),
            Self::Restored => Event::Restored(Deserialize::deserialize(fields)?),
            Self::Lost => Event::Lost(Deserialize::deserialize(fields)?),
            Self::Bypass => Event::Bypass(Deserialize::deserialize(fields)?),
            Self::Dropped => Event::Dropped(Deserialize::deserialize(fields)?),
            Self::Policy => Event::Policy(Deserialize::deserialize(fields)?),
            Self::Pod => Event::Pod(Deserialize::deserialize(fields)?),
            Self::Repeated => Event::Repeated(Deserialize::deserialize(fields)?),
            Self::Start => Event::Start(Deserialize::deserialize(fields)?),
            Self::Stop => Event::Stop(Deserialize::deserialize(fields)?),
        })
    }
}

/// The fields after `event` without those of [`Head`], which it receives.
struct Rest<'h, 'de, A> {
    map: A,
    head: &'h mut Head,
    next: Option<JsonText<'de>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Rest<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.next = self.map.next_key()?;
        while let Some(JsonText(key)) = &self.next {
            if key == "event" {
                // A second one: which of them is meant can't be known.
                self.map.next_value::<IgnoredAny>()?;
                return Err(A::Error::duplicate_field("event"));
            }
            if !self.head.take(key, &mut self.map)? {
                break;
            }
            self.next = self.map.next_key()?;
        }
        let Some(JsonText(key)) = self.next.take() else { return Ok(None) };
        let key: CowStrDeserializer<'_, A::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[derive(Deserialize)]
struct Time(#[serde(with = "form::time")] Timestamp);
