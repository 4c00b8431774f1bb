//! A hash or a stream's entry as it comes from Redis: bytes by name, of which any may be broken.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::moment;

/// Fields that are taken out one by one; those that could not be read are remembered by name.
pub(super) struct Fields {
    values: HashMap<Vec<u8>, Vec<u8>>,
    unreadable: Vec<&'static str>,
}

impl Fields {
    pub(super) fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let owned = |(name, value): (N, V)| (name.as_ref().to_vec(), value.as_ref().to_vec());
        Self {
            values: fields.into_iter().map(owned).collect(),
            unreadable: Vec::new(),
        }
    }

    pub(super) fn bytes(&mut self, name: &'static str) -> Option<Vec<u8>> {
        self.values.remove(name.as_bytes())
    }

    /// Reads a field; absent, empty and unreadable ones are unset.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let bytes = self.bytes(name).filter(|bytes| !bytes.is_empty())?;
        let value = str::from_utf8(&bytes).ok().and_then(parse);
        if value.is_none() {
            self.unreadable.push(name);
        }
        value
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.read(name, |text| Some(text.to_owned()))
    }

    pub(super) fn date(&mut self, name: &'static str) -> Option<OffsetDateTime> {
        self.read(name, moment::parse_date)
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, name: &'static str) -> Option<T> {
        self.read(name, |text| text.parse().ok())
    }

    /// `1` is true, `0` and nothing are false.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let flag = self.read(name, |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        });
        flag.unwrap_or(false)
    }

    pub(super) fn json<T: serde::de::DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        self.read(name, |text| serde_json::from_str(text).ok())
    }

    /// The names of the fields that counted as unset because of what was in them.
    pub(super) fn unreadable(self) -> Vec<&'static str> {
        self.unreadable
    }
}
