//! The text of archives of databases that are not UTF-8: pg_dump writes names as the server has them.

use encoding_rs::Encoding;

/// PostgreSQL's names of server encodings (`pg_enc2name_tbl` in encnames.c), and the Encoding Standard's labels of the same or
/// of one that has more characters.
const LABELS: [(&str, &str); 29] = [
    ("EUC_CN", "gbk"),
    ("EUC_JP", "euc-jp"),
    ("EUC_KR", "euc-kr"),
    ("ISO_8859_5", "iso-8859-5"),
    ("ISO_8859_6", "iso-8859-6"),
    ("ISO_8859_7", "iso-8859-7"),
    ("ISO_8859_8", "iso-8859-8"),
    ("KOI8R", "koi8-r"),
    ("KOI8U", "koi8-u"),
    ("LATIN10", "iso-8859-16"),
    ("LATIN2", "iso-8859-2"),
    ("LATIN3", "iso-8859-3"),
    ("LATIN4", "iso-8859-4"),
    ("LATIN5", "iso-8859-9"),
    ("LATIN6", "iso-8859-10"),
    ("LATIN7", "iso-8859-13"),
    ("LATIN8", "iso-8859-14"),
    ("LATIN9", "iso-8859-15"),
    ("WIN1250", "windows-1250"),
    ("WIN1251", "windows-1251"),
    ("WIN1252", "windows-1252"),
    ("WIN1253", "windows-1253"),
    ("WIN1254", "windows-1254"),
    ("WIN1255", "windows-1255"),
    ("WIN1256", "windows-1256"),
    ("WIN1257", "windows-1257"),
    ("WIN1258", "windows-1258"),
    ("WIN866", "ibm866"),
    ("WIN874", "windows-874"),
];

/// What the bytes say, which are UTF-8 or of the server encoding that is named. A byte that cannot be read stands as U+FFFD:
/// what is listed is looked at, and a restore goes by numbers.
pub(super) fn decode(bytes: Vec<u8>, server_encoding: Option<&str>) -> String {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return text,
        Err(error) => error.into_bytes(),
    };
    let named = LABELS
        .iter()
        .find(|(name, _)| Some(*name) == server_encoding);
    match named.and_then(|(_, label)| Encoding::for_label(label.as_bytes())) {
        Some(encoding) => encoding.decode_without_bom_handling(&bytes).0.into_owned(),
        None if server_encoding == Some("LATIN1") => {
            encoding_rs::mem::decode_latin1(&bytes).into_owned()
        }
        None => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_known() {
        for (name, label) in LABELS {
            assert!(Encoding::for_label(label.as_bytes()).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_read_as_the_server_has_it() {
        let decoded = |bytes: &[u8], name| decode(bytes.to_vec(), name);
        assert_eq!(decoded(b"\xe9t\xe9 \x85", Some("LATIN1")), "été \u{85}");
        assert_eq!(decoded(b"\xe9t\xe9 \x80", Some("WIN1252")), "été €");
        assert_eq!(decoded(b"\xd6\xc5\xce\xc1", Some("KOI8R")), "жена");
        assert_eq!(decoded(b"\xc6\xfc\xcb\xdc", Some("EUC_JP")), "日本");
        assert_eq!(decoded("été".as_bytes(), Some("LATIN1")), "été");
        assert_eq!(
            decoded(b"\xe9t\xe9", Some("SQL_ASCII")),
            "\u{fffd}t\u{fffd}"
        );
        assert_eq!(decoded(b"\xe9t\xe9", None), "\u{fffd}t\u{fffd}");
    }
}
