//! Builds what the binary carries inside.

#[path = "build/ebpf.rs"]
mod ebpf;
#[path = "build/netholder.rs"]
mod netholder;

fn main() {
    ebpf::embed();
    netholder::build();
}
