//! Builds what the binary carries inside.

#[path = "build/netholder.rs"]
mod netholder;

fn main() {
    netholder::build();
}
