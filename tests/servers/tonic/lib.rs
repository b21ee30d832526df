//! What the greeter and its clients say to each other.

include!(concat!(env!("OUT_DIR"), "/demo.Greeter.rs"));

#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub text: String,
}

/// One to ten, a tenth of a second apart.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    #[prost(uint32, tag = "1")]
    pub number: u32,
}
