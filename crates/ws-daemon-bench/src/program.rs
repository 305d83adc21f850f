//! The programs that are run: the smallest one that Linux starts, an ELF64 file
//! of about 130 bytes whose only deed is `exit_group(0)`, and a shell script that does as much.
//!
//! The first is written by hand, so that no compiler is needed and no loader, libc or
//! page of data adds its own time to what is measured: the limit and the
//! daemons run the very same bytes. It never reads, and never writes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the minimal program is written for x86_64 and aarch64");

/// Where the file is mapped; its first byte, so the headers are mapped with it.
const BASE: u64 = 0x40_0000;
/// Right for every page size that either machine has.
const ALIGNMENT: u64 = 0x1_0000;
const FILE_HEADER_BYTES: u16 = 64;
const SEGMENT_HEADER_BYTES: u16 = 56;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x31, 0xff, // xor edi, edi
    0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231 (exit_group)
    0x0f, 0x05, // syscall
];

#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, // mov x0, #0
    0xc8, 0x0b, 0x80, 0xd2, // mov x8, #94 (exit_group)
    0x01, 0x00, 0x00, 0xd4, // svc #0
];

const SHELL_SCRIPT: &[u8] = b"#!/bin/sh\nexit 0\n";

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// The smallest one.
    Minimal,
    /// `#!/bin/sh` and `exit 0`.
    Shell,
}

impl Program {
    pub const ALL: [Program; 2] = [Program::Minimal, Program::Shell];

    /// The name under which it lies in `scripts/`.
    pub const fn name(self) -> &'static str {
        match self {
            Program::Minimal => "min",
            Program::Shell => "sh",
        }
    }

    /// Writes it into `folder`, executable by all.
    pub fn write(self, folder: &Path) -> io::Result<()> {
        let path = folder.join(self.name());
        match self {
            Program::Minimal => fs::write(&path, image())?,
            Program::Shell => fs::write(&path, SHELL_SCRIPT)?,
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    }
}

fn image() -> Vec<u8> {
    let code_offset = u64::from(FILE_HEADER_BYTES + SEGMENT_HEADER_BYTES);
    let file_bytes = code_offset + CODE.len() as u64;

    let mut image = Vec::new();
    // 64 bits, little endian, ELF version 1, System V.
    image.extend(b"\x7fELF\x02\x01\x01\x00\0\0\0\0\0\0\0\0");
    push_u16(&mut image, 2); // an executable, mapped where it says
    push_u16(&mut image, MACHINE);
    push_u32(&mut image, 1); // ELF version
    push_u64(&mut image, BASE + code_offset); // entry
    push_u64(&mut image, u64::from(FILE_HEADER_BYTES)); // segment headers' offset
    push_u64(&mut image, 0); // no sections
    push_u32(&mut image, 0); // machine flags
    push_u16(&mut image, FILE_HEADER_BYTES);
    push_u16(&mut image, SEGMENT_HEADER_BYTES);
    push_u16(&mut image, 1); // one segment
    push_u16(&mut image, 0); // sections: entry size, count, names
    push_u16(&mut image, 0);
    push_u16(&mut image, 0);

    push_u32(&mut image, 1); // to be loaded
    push_u32(&mut image, 0b101); // readable and executable
    push_u64(&mut image, 0); // from the file's first byte
    push_u64(&mut image, BASE); // virtual address
    push_u64(&mut image, BASE); // physical address, unused
    push_u64(&mut image, file_bytes); // in the file
    push_u64(&mut image, file_bytes); // in memory
    push_u64(&mut image, ALIGNMENT);

    image.extend(CODE);
    image
}

fn push_u16(image: &mut Vec<u8>, value: u16) {
    image.extend(value.to_le_bytes());
}

fn push_u32(image: &mut Vec<u8>, value: u32) {
    image.extend(value.to_le_bytes());
}

fn push_u64(image: &mut Vec<u8>, value: u64) {
    image.extend(value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That it runs is shown where it is run: a file just written can be "busy" for as
    /// long as another test's child holds a copy of the descriptor that wrote it.
    #[test]
    fn the_program_is_minimal_and_whole() {
        let image = image();
        assert!(image.len() < 140, "{} bytes", image.len());
        assert!(image.ends_with(CODE));
        let entry = u64::from_le_bytes(image[24..32].try_into().expect("eight bytes"));
        assert_eq!(entry - BASE, (image.len() - CODE.len()) as u64);
    }
}
