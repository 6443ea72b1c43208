//! Parquet files, as the hub stores benchmarks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(not(feature = "parquet"))]
#[test]
fn without_the_feature_the_error_says_how_to_build() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.parquet");
    std::fs::File::create(&path).unwrap();
    let error = foveate_data::Records::open(&path, foveate_data::Format::VideoMme, None).unwrap_err().to_string();
    assert!(error.ends_with("this build does not read parquet: build with `--features parquet`"), "{error}");
}

#[cfg(feature = "parquet")]
mod read {
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use foveate_data::{Format, Records};
    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// The columns that are read, all of them optional, as Arrow writes them.
    const SCHEMA: &str = "message schema {
        optional binary videoID (UTF8);
        optional binary question_id (UTF8);
        optional binary duration (UTF8);
        optional binary task_type (UTF8);
        optional binary question (UTF8);
        optional group options (LIST) { repeated group list { optional binary element (UTF8); } }
        optional binary answer (UTF8);
    }";

    /// Writes records of one text for each column, parts of the options apart by '|'; a row group for each.
    fn write(path: &Path, compression: Compression, rows: &[[&str; 7]]) {
        let properties = WriterProperties::builder().set_compression(compression).build();
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
        for row in rows {
            let mut group = writer.next_row_group().unwrap();
            for (index, text) in row.iter().enumerate() {
                let values: Vec<ByteArray> = text.split('|').map(ByteArray::from).collect();
                let is_list = index == 5;
                let defined = vec![if is_list { 3 } else { 1 }; values.len()];
                let repeated: Vec<i16> = (0..values.len()).map(|part| i16::from(part > 0)).collect();
                let mut column = group.next_column().unwrap().unwrap();
                let levels = is_list.then_some(repeated.as_slice());
                column.typed::<ByteArrayType>().write_batch(&values, Some(&defined), levels).unwrap();
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    const ROW: [&str; 7] = ["fFj", "001-1", "short", "Counting Problem", "How many?\nLook!", "A. 1|B. 2|C. 4", "C"];

    #[test]
    fn rows_are_records_whatever_they_are_compressed_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test-00000-of-00001.parquet");
        let gzip = Compression::GZIP(GzipLevel::default());
        let zstd = Compression::ZSTD(ZstdLevel::default());
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, zstd] {
            write(&path, compression, &[["a", "000-1", "long", "OCR Problems", "?", "A. x|B. y", "A"], ROW]);
            let records = Records::open(&path, Format::VideoMme, None).unwrap();
            assert_eq!(records.len(), 2);
            let example = records.get(1).unwrap();
            assert_eq!(example.media[0].path(), folder.path().join("data/fFj.mp4"));
            assert_eq!((example.id.as_str(), example.question.as_str()), ("001-1", "How many?\nLook!"));
            assert_eq!((example.options, example.answer.as_str()), (vec!["1".into(), "2".into(), "4".into()], "C"));
        }
    }

    #[test]
    fn a_wrong_row_is_named_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.parquet");
        let mut wrong = ROW;
        wrong[2] = "brief";
        write(&path, Compression::SNAPPY, &[ROW, wrong]);
        let error = Records::open(&path, Format::VideoMme, None).unwrap().get(1).unwrap_err().to_string();
        let expected =
            "f.parquet: record 2: duration: unknown variant `brief`, expected one of `short`, `medium`, `long`";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn a_file_that_is_not_parquet_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.parquet");
        File::create(&path).unwrap();
        let error = Records::open(&path, Format::VideoMme, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
    }
}
