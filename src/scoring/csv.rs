//! A table as CSV with a header line, as `DataFrame.to_csv` writes it. Every cell is a string, so that the text `42` stays
//! one; cells of several lines are quoted.

use csv::{Reader, ReaderBuilder, StringRecord};

use super::table::{find_columns, invalid};
use super::{ImageSource, Row, ScoringError};

/// The table's name in messages.
const TABLE: &str = "text/csv";

/// The rows of a table. Columns are found by name, the first of a name counts, and others are ignored.
///
/// # Errors
/// [`ScoringError::Invalid`] or [`ScoringError::MissingColumn`] for the first fault.
pub fn rows_of_csv(body: &[u8]) -> Result<Vec<Row>, ScoringError> {
    let text = std::str::from_utf8(body).map_err(|_| invalid(format!("{TABLE}: the body is not UTF-8")))?;
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let header = header(&mut reader)?;
    let (image, text) = find_columns(TABLE, &header.iter().collect::<Vec<_>>())?;
    let rows = reader.records().enumerate().map(|(number, record)| {
        let record = record.map_err(|_| "cannot be read".to_owned());
        let row = record.and_then(|record| row_of_cells(&record, header.len(), image, text));
        row.map_err(|reason| invalid(format!("row {number}: {reason}")))
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() { Err(invalid(format!("{TABLE}: data is empty; send at least one row"))) } else { Ok(rows) }
}

fn header(reader: &mut Reader<&[u8]>) -> Result<StringRecord, ScoringError> {
    let header = reader.headers().map_err(|_| invalid(format!("{TABLE}: the header line cannot be read")))?;
    if header.is_empty() {
        return Err(invalid(format!("{TABLE}: the body is empty; send a header line and at least one row")));
    }
    Ok(header.clone())
}

fn row_of_cells(record: &StringRecord, columns: usize, image: usize, text: Option<usize>) -> Result<Row, String> {
    if record.len() != columns {
        return Err(format!("{} values for {columns} columns", record.len()));
    }
    let image = ImageSource::parse(&record[image]).map_err(|error| error.to_string())?;
    Ok(Row { image, text: text.map(|column| record[column].to_owned()).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The texts of the rows, whose images are all the same.
    fn texts(body: &str) -> Result<Vec<String>, String> {
        let rows = rows_of_csv(body.as_bytes()).map_err(|error| error.to_string())?;
        assert!(rows.iter().all(|row| row.image == ImageSource::File(b"ABC".as_slice().into())));
        Ok(rows.into_iter().map(|row| row.text).collect())
    }

    #[test]
    fn a_table_as_pandas_writes_it_is_read_whatever_its_line_ends() {
        let unix = ",text,image\n0,what is it?,QUJD\n1,\"it's, \"\"this\"\"\nisn't it\",\"QU\nJD\n\"\n";
        for body in [unix.to_owned(), unix.replace('\n', "\r\n"), format!("\u{feff}{unix}"), unix.trim_end().into()] {
            let lines: Vec<_> = texts(&body).unwrap().iter().map(|text| text.replace("\r\n", "\n")).collect();
            assert_eq!(lines, ["what is it?", "it's, \"this\"\nisn't it"], "{body:?}");
        }
    }

    #[test]
    fn a_text_stays_as_it_is_and_an_image_alone_is_captioned() {
        assert_eq!(texts("image,text\nQUJD,42\nQUJD, \nQUJD,\nQUJD,NaN\n").unwrap(), ["42", " ", "", "NaN"]);
        assert_eq!(texts("image\nQUJD\n\nQUJD\n").unwrap(), ["", ""]);
        assert_eq!(texts("image,text,text\nQUJD,first,second\n").unwrap(), ["first"]);
    }

    #[test]
    fn a_fault_is_named_with_its_place() {
        for (body, part) in [
            ("", "the body is empty"),
            ("\n\n", "the body is empty"),
            ("image,text\n", "data is empty"),
            ("text\nhello\n", "columns holds no \"image\""),
            ("image,question\nQUJD,x\n", "columns holds no \"text\""),
            ("image,text\nQUJD,x\nQUJD\n", "row 1: 1 values for 2 columns"),
            ("image,text\nQUJD,x,y\n", "row 0: 3 values for 2 columns"),
            ("image,text\nQUJD,x\n,x\n", "row 1: image is empty"),
            ("image,text\nQUJDR,x\n", "row 0: image is not base64"),
        ] {
            let message = texts(body).unwrap_err();
            assert!(message.contains(part), "{body:?}: {message}");
        }
        assert!(rows_of_csv(b"image,text\nQUJD,\xff\n").unwrap_err().to_string().contains("not UTF-8"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_rows_or_a_fault(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rows_of_csv(&body);
        }

        #[test]
        fn what_is_quoted_comes_back(written in proptest::collection::vec("[ -~\n\r\"é]{0,20}", 1..5)) {
            let mut body = "image,text\n".to_owned();
            for text in &written {
                body.push_str(&format!("QUJD,\"{}\"\n", text.replace('"', "\"\"")));
            }
            prop_assert_eq!(texts(&body).unwrap(), written);
        }
    }
}
