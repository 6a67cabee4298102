//! Reading messages with the codec of the data path, as its shells do.

use std::collections::BTreeMap;

use equipoise_data_plane::http1::{
    BodyDecoder, Framing, HeadScan, HeadStorage, Limits, RequestHead, ResponseBody, ResponseHead, Step,
};

/// Larger than any input here.
const LIMITS: Limits = Limits { line_bytes_max: 64 * 1024, head_bytes_max: 64 * 1024, headers_max: 100 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Requests,
    Responses,
}

/// What both codecs must agree on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Method, path and query; or the status.
    pub start: String,
    /// Values by name, in lower case.
    pub headers: BTreeMap<String, Vec<Vec<u8>>>,
    pub body: Vec<u8>,
    pub is_whole: bool,
}

/// What comes of bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Head(Message),
    Data(Vec<u8>),
    End,
    /// Nothing after this is read.
    Refused(String),
    /// The connection ends with the message before.
    Last,
}

/// A head, how its body is read, and whether the connection outlives it.
struct Read {
    message: Message,
    decoder: BodyDecoder,
    persists: bool,
    is_interim: bool,
}

/// Messages that were begun, interim responses left out.
pub fn ours(side: Side, data: &[u8]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for event in events(side, std::iter::once(data)) {
        match event {
            Event::Head(message) => messages.push(message),
            Event::Data(data) => {
                if let Some(last) = messages.last_mut() {
                    last.body.extend(data);
                }
            }
            Event::End => {
                if let Some(last) = messages.last_mut() {
                    last.is_whole = true;
                }
            }
            Event::Refused(_) | Event::Last => break,
        }
    }
    messages
}

/// Everything that comes of bytes that arrive in pieces, and of their end. Adjacent data is joined.
pub fn events<'a>(side: Side, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut reading = Reading { side, ..Reading::default() };
    for piece in pieces {
        reading.buffer.extend_from_slice(piece);
        while !reading.is_over && reading.advance() {}
    }
    if !reading.is_over && reading.body.as_ref().is_some_and(BodyDecoder::closes_well) {
        reading.events.push(Event::End);
    }
    reading.events
}

#[derive(Debug)]
struct Reading {
    side: Side,
    buffer: Vec<u8>,
    scan: HeadScan,
    body: Option<BodyDecoder>,
    persists: bool,
    is_over: bool,
    events: Vec<Event>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            side: Side::Requests,
            buffer: Vec::new(),
            scan: HeadScan::default(),
            body: None,
            persists: true,
            is_over: false,
            events: Vec::new(),
        }
    }
}

impl Reading {
    /// Takes one step; false when more bytes are needed.
    fn advance(&mut self) -> bool {
        if self.body.is_some() {
            return self.advance_body();
        }
        let head = match self.scan.advance(&self.buffer, &LIMITS) {
            Ok(Some(head)) if self.side == Side::Requests || head.start == 0 => head,
            Ok(None) => return false,
            Ok(Some(_)) => return self.refuse("an empty line first"),
            Err(error) => return self.refuse(&error.to_string()),
        };
        self.scan = HeadScan::default();
        match read(self.side, &self.buffer[head.clone()]) {
            Err(error) => return self.refuse(&error),
            Ok(Read { is_interim: true, .. }) => {}
            Ok(Read { message, decoder, persists, .. }) => {
                self.persists = persists && self.side == Side::Requests;
                self.events.push(Event::Head(message));
                self.body = Some(decoder);
            }
        }
        self.buffer.drain(..head.end);
        true
    }

    fn advance_body(&mut self) -> bool {
        let Some(decoder) = &mut self.body else { return false };
        match decoder.next(&self.buffer) {
            Ok(Step::Data { skip, length }) => {
                assert!(length > 0, "data is not empty");
                let data = self.buffer.drain(..skip + length).skip(skip);
                match self.events.last_mut() {
                    Some(Event::Data(before)) => before.extend(data),
                    _ => self.events.push(Event::Data(data.collect())),
                }
                true
            }
            Ok(Step::More { skip }) => {
                assert_eq!(skip, self.buffer.len(), "what is not taken would never be");
                self.buffer.clear();
                false
            }
            Ok(Step::End { skip }) => {
                self.buffer.drain(..skip);
                self.body = None;
                self.events.push(Event::End);
                if !self.persists {
                    self.is_over = true;
                    self.events.push(Event::Last);
                }
                true
            }
            Err(error) => self.refuse(&error.to_string()),
        }
    }

    fn refuse(&mut self, why: &str) -> bool {
        self.is_over = true;
        self.events.push(Event::Refused(why.to_owned()));
        false
    }
}

fn read(side: Side, bytes: &[u8]) -> Result<Read, String> {
    let mut storage = HeadStorage::new();
    match side {
        Side::Requests => {
            let head = RequestHead::parse(bytes, &mut storage).map_err(|error| error.to_string())?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let query = head.target.query.map(|query| format!("?{}", text(query))).unwrap_or_default();
            let start = format!("{} {}{query}", head.method, text(head.target.path));
            let decoder = match head.framing {
                Framing::Absent => BodyDecoder::length(0),
                Framing::Length(length) => BodyDecoder::length(length),
                Framing::Chunked => BodyDecoder::chunked(),
            };
            let headers = by_name(head.headers.iter().map(|header| (header.name, header.value)));
            let message = Message { start, headers, ..Message::default() };
            Ok(Read { message, decoder, persists: head.persists(), is_interim: false })
        }
        Side::Responses => {
            let head = ResponseHead::parse(bytes, false, &mut storage).map_err(|error| error.to_string())?;
            if head.status == 101 {
                return Err("nobody asked for it".to_owned());
            }
            let decoder = match head.body {
                ResponseBody::Absent => BodyDecoder::length(0),
                ResponseBody::Length(length) => BodyDecoder::length(length),
                ResponseBody::Chunked => BodyDecoder::chunked(),
                ResponseBody::UntilClose => BodyDecoder::until_close(),
            };
            let headers = by_name(head.headers.iter().map(|header| (header.name, header.value)));
            let message = Message { start: head.status.to_string(), headers, ..Message::default() };
            Ok(Read { message, decoder, persists: false, is_interim: head.status < 200 })
        }
    }
}

/// Values by name, in the order of each name.
pub fn by_name<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut found: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, value) in headers {
        found.entry(name.to_ascii_lowercase()).or_default().push(value.to_vec());
    }
    found
}
