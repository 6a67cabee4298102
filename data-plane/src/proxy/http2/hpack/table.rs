//! The tables of HPACK, without their bytes: what each entry is to the rules, and its size. Pure.

use std::collections::VecDeque;

use super::field::{Field, Name, Pseudo, Value};
use super::huffman::Broken;

/// Bytes that the other end may have in its table, as long as nobody tells it another number, which `h2` does not. With the least that an
/// entry takes, these are 128 of them. Source: RFC 9113 6.5.2.
pub const SIZE_MAX: usize = 4096;

/// Names and values. Source: RFC 7541 A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[expect(clippy::cast_possible_truncation, reason = "words of some bytes")]
static STATIC_FIELDS: [Field; STATIC.len()] = {
    let none =
        Field { name: Name::Field, value: Value::Good, name_bytes: 0, value_bytes: 0, is_replaced: false };
    let mut fields = [none; STATIC.len()];
    let mut place = 0;
    while place < fields.len() {
        let (name, value) = STATIC[place];
        fields[place].name_bytes = name.len() as u32;
        fields[place].value_bytes = value.len() as u32;
        fields[place].name = match place + 1 {
            1 => Name::Pseudo(Pseudo::Authority),
            2 | 3 => Name::Pseudo(Pseudo::Method),
            4 | 5 => Name::Pseudo(Pseudo::Path),
            6 | 7 => Name::Pseudo(Pseudo::Scheme),
            8..=14 => Name::Pseudo(Pseudo::Status),
            57 => Name::Connection,
            _ => Name::Field,
        };
        if place == 0 {
            // An authority that is nothing is none.
            fields[place].value = Value::Odd;
        }
        place += 1;
    }
    fields
};

/// Both of them, as one end of a connection has said.
#[derive(Debug)]
pub struct Table {
    /// The newest first.
    entries: VecDeque<Field>,
    size: usize,
    size_max: usize,
}

impl Table {
    pub const fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, size_max: SIZE_MAX }
    }

    /// What is in this place. Source: RFC 7541 2.3.3.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn get(&self, place: usize) -> Result<Field, Broken> {
        let place = place.checked_sub(1).ok_or(Broken)?;
        let found = match place.checked_sub(STATIC_FIELDS.len()) {
            None => STATIC_FIELDS.get(place),
            Some(place) => self.entries.get(place),
        };
        found.copied().ok_or(Broken)
    }

    /// Puts a field in front, for which older ones make room. Source: RFC 7541 4.4.
    pub fn insert(&mut self, field: Field) {
        self.shrink(self.size_max.saturating_sub(field.size()));
        if field.size() <= self.size_max {
            self.size += field.size();
            self.entries.push_front(field);
        }
    }

    /// Takes this as its largest size. Source: RFC 7541 4.3 and 6.3.
    ///
    /// # Errors
    /// When it is larger than may be.
    pub fn resize(&mut self, size_max: usize) -> Result<(), Broken> {
        if size_max > SIZE_MAX {
            return Err(Broken);
        }
        self.size_max = size_max;
        self.shrink(size_max);
        Ok(())
    }

    fn shrink(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size();
        }
    }

    #[cfg(test)]
    pub fn entries(&self) -> &VecDeque<Field> {
        &self.entries
    }

    #[cfg(test)]
    pub const fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Rest;
    use super::*;

    #[test]
    fn the_static_table_is_what_its_words_are() {
        for (place, (name, value)) in STATIC.into_iter().enumerate() {
            let written = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            let (name, value) = (written(name), written(value));
            let name = Rest(&name).string().unwrap().text().unwrap();
            let kind = Name::of(&name);
            let (value, value_bytes) = Value::of(kind, Rest(&value).string().unwrap()).unwrap();
            let field = Table::new().get(place + 1).unwrap();
            assert_eq!((field.name, field.value), (kind, value), "{place}");
            assert_eq!((field.name_bytes as usize, field.value_bytes as usize), (name.bytes, value_bytes));
        }
    }
}
