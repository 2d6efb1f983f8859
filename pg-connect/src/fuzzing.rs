//! What fuzz targets reach, without stability: the readers of files, on any bytes.

use crate::password_file::{self, Entry};
use crate::service_file;
use std::path::Path;

/// Reads bytes as a service file. What is found does not matter, as long as nothing panics.
pub fn read_service_file(bytes: &[u8]) {
    let _ = service_file::group(bytes, "mine", Path::new("file"));
}

/// Reads bytes as a password file. What is found does not matter, as long as nothing panics.
pub fn read_password_file(bytes: &[u8]) {
    let entry = Entry {
        host: "h:1*",
        port: "5432",
        database: "d",
        user: "\\u",
    };
    let _ = password_file::find(bytes, &entry);
}
