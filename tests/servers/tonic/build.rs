//! Makes the greeter's client and server, with no need of protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name, route, reply| {
        let method = Method::builder().name(name).route_name(route).input_type("crate::Request");
        method.output_type(reply).codec_path("tonic_prost::ProstCodec")
    };
    let hello = method("hello", "Hello", "crate::Hello").build();
    let count = method("count", "Count", "crate::Number").server_streaming().build();
    let greeter = Service::builder().package("demo").name("Greeter").method(hello).method(count).build();
    Builder::new().compile(&[greeter]);
}
