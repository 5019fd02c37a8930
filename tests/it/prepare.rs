//! `data prepare` on miniatures of the official layouts, and what follows: split, lint, the manifest of shards.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::common::gray;
use reportclip::data::{Columns, Manifest, image};
use serde_json::Value;

use crate::common::named_by;

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reportclip")).current_dir(folder).args(args).output().unwrap()
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn write(path: PathBuf, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A small picture, different for each `i`.
fn picture(path: PathBuf, i: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let picture = gray(40, 30, |x, y| (x * 5 + y * (i + 1) * 3 % 97 + 7 * i) as u8);
    let is_jpeg = path.extension().is_some_and(|e| e == "jpg");
    fs::write(path, if is_jpeg { image::reduced(&picture, None) } else { image::png(&picture) }.unwrap()).unwrap();
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// The manifest's lines as maps.
fn rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader.deserialize().map(|row| row.unwrap()).collect()
}

#[test]
fn open_i() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("openi");
    let xml = |id: &str, findings: &str, images: &[&str]| {
        let images: String =
            images.iter().map(|i| format!("<parentImage id=\"{i}\"><figureId/></parentImage>")).collect();
        format!(
            "<?xml version=\"1.0\"?><eCitation><uId id=\"{id}\"/><MedlineCitation><Article><Abstract>\
             <AbstractText Label=\"COMPARISON\">None.</AbstractText>\
             <AbstractText Label=\"INDICATION\">Cough</AbstractText>\
             <AbstractText Label=\"FINDINGS\">{findings}</AbstractText>\
             <AbstractText Label=\"IMPRESSION\">Seen &amp; noted.</AbstractText></Abstract></Article></MedlineCitation>\
             <MeSH><major>Opacity/lung/base</major></MeSH>{images}</eCitation>"
        )
    };
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("ecgen-radiology/1.xml", xml("CXR1", "Clear.", &["CXR1_1_IM-0001-1001", "CXR1_1_IM-0001-2001"])),
        ("ecgen-radiology/2.xml", xml("CXR2", "", &["CXR2_IM-0002", "CXR2_missing"])),
        ("ecgen-radiology/3.xml", xml("CXR3", "x", &["../../escape"])),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &bytes).unwrap();
    write(root.join("NLMCXR_reports.tgz"), encoder.finish().unwrap());
    for (i, name) in ["CXR1_1_IM-0001-1001", "CXR1_1_IM-0001-2001", "CXR2_IM-0002"].iter().enumerate() {
        picture(root.join(format!("NLMCXR_png/{name}.png")), i as u32);
    }
    let said = ok(dir.path(), &["data", "prepare", "openi", "openi", "--out", "out"]);
    assert!(said.contains("3 rows, 2 studies, 2 patients"), "{said}");
    assert!(said.contains("left out: 1 row whose image is not there"), "{said}");
    let rows = rows(&dir.path().join("out/manifest.csv"));
    assert_eq!(rows[0]["report"], "INDICATION: Cough\nCOMPARISON: None.\nFINDINGS: Clear.\nIMPRESSION: Seen & noted.");
    assert_eq!(rows[2]["report"], "INDICATION: Cough\nCOMPARISON: None.\nIMPRESSION: Seen & noted.");
    assert_eq!(rows[0]["label"], "Opacity");
    assert_eq!(rows[0]["patient_id"], rows[1]["patient_id"]);
    assert!(rows.iter().all(|r| !r["patient_id"].contains("CXR") && r["patient_id"].len() == 16));
    // The salt is kept, so the same numbers come again; a cut archive is told.
    let again = ok(dir.path(), &["data", "prepare", "openi", "openi", "--out", "out"]);
    assert_eq!(said, again);
    let whole = fs::read(root.join("NLMCXR_reports.tgz")).unwrap();
    write(root.join("NLMCXR_reports.tgz"), &whole[..whole.len() / 2]);
    let broken = run(dir.path(), &["data", "prepare", "openi", "openi", "--out", "new"]);
    let error = String::from_utf8(broken.stderr).unwrap();
    assert_eq!((broken.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn mimic_cxr_with_images_made_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mimic");
    let metadata = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition\n\
                    aaaa-1,10000032,50414267,CHEST,PA\naaaa-2,10000032,50414267,CHEST,LATERAL\n\
                    bbbb-1,10000764,57375967,CHEST,AP\n\
                    cccc-1,10000898,50771383,CHEST,PA\n";
    write(root.join("mimic-cxr-2.0.0-metadata.csv.gz"), gzip(metadata));
    let split = "dicom_id,study_id,subject_id,split\naaaa-1,50414267,10000032,train\naaaa-2,50414267,10000032,train\n\
                 bbbb-1,57375967,10000764,validate\ncccc-1,50771383,10000898,test\n";
    write(root.join("mimic-cxr-2.0.0-split.csv"), split);
    let names = "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,\
                 Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices";
    let labels = format!(
        "subject_id,study_id,{names}\n10000032,50414267,,,,,,,,,1.0,,,,,\n10000764,57375967,,1.0,-1.0,,,,,,,1.0,,,,\n"
    );
    write(root.join("mimic-cxr-2.0.0-chexpert.csv"), labels);
    for (i, (patient, study, name)) in [
        ("p10/p10000032", "s50414267", "aaaa-1"),
        ("p10/p10000032", "s50414267", "aaaa-2"),
        ("p10/p10000764", "s57375967", "bbbb-1"),
        ("p10/p10000898", "s50771383", "cccc-1"),
    ]
    .into_iter()
    .enumerate()
    {
        picture(root.join(format!("files/{patient}/{study}/{name}.jpg")), i as u32);
        if i != 3 {
            let text =
                format!(" FINAL REPORT\n INDICATION:  ___F\n\n FINDINGS:\n\n Study {i}.\n\n IMPRESSION:  Fine.\n");
            write(root.join(format!("mimic-cxr-reports/files/{patient}/{study}.txt")), text);
        }
    }
    let args = ["data", "prepare", "mimic-cxr", "mimic", "--out", "out", "--size", "16", "--json"];
    let summary: Value = serde_json::from_str(&ok(dir.path(), &args)).unwrap();
    assert_eq!((summary["rows"].as_u64(), summary["empty_reports"].as_u64()), (Some(3), Some(1)), "{summary}");
    let rows = rows(&dir.path().join("out/manifest.csv"));
    assert_eq!(rows.iter().map(|r| r["split"].as_str()).collect::<Vec<_>>(), ["train", "train", "val"]);
    assert_eq!(
        rows.iter().map(|r| r["label"].as_str()).collect::<Vec<_>>(),
        ["No Finding", "No Finding", "Pleural Effusion"]
    );
    assert_eq!(rows[1]["view"], "LATERAL");
    let manifest = fs::read_to_string(dir.path().join("out/manifest.csv")).unwrap();
    assert!(!manifest.contains("10000032") && !manifest.contains("50414267"), "numbers of patients are hashed");
    let image = image::read(&dir.path().join("out").join(&rows[0]["image"])).unwrap();
    assert_eq!((image.width, image.height), (21, 16));
    // Splits hold, sections are read, lint agrees.
    let columns = Columns { policy: findings(), ..Columns::default() };
    let read = Manifest::open(&dir.path().join("out/manifest.csv"), &columns, None).unwrap();
    assert_eq!(read.rows[0].report(), "Study 1.");
    ok(dir.path(), &["data", "lint", "out/manifest.csv"]);
    let error = run(dir.path(), &["data", "prepare", "mimic-cxr", ".", "--out", "x", "--size", "16"]);
    let error = String::from_utf8(error.stderr).unwrap();
    assert!(error.contains("holds no mimic-cxr-2.0.0-metadata.csv"), "{error}");
}

fn findings() -> reportclip::data::ReportPolicy {
    let section = reportclip::data::ReportSection::Findings;
    reportclip::data::ReportPolicy { section, ..Default::default() }
}

#[test]
fn roco_old_and_new() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("roco"), dir.path().join("roco2"));
    for (i, split) in ["train", "validation", "test"].into_iter().enumerate() {
        let folder = old.join("data").join(split).join("radiology");
        write(folder.join("captions.txt"), format!("ROCO_{i}\t A caption, {split}.\n../x\tno\n"));
        picture(folder.join(format!("images/ROCO_{i}.jpg")), i as u32);
    }
    for (i, split) in ["train", "valid", "test"].into_iter().enumerate() {
        write(new.join(format!("{split}_captions.csv")), format!("ID,Caption\nROCOv2_{i},\"A caption, {split}.\"\n"));
        picture(new.join(split).join(format!("ROCOv2_{i}.jpg")), i as u32);
    }
    for root in ["roco", "roco2"] {
        let said = ok(dir.path(), &["data", "prepare", "roco", root, "--out", &format!("out-{root}")]);
        assert!(said.contains("3 rows, 3 studies"), "{said}");
        let rows = rows(&dir.path().join(format!("out-{root}/manifest.csv")));
        assert_eq!(rows.iter().map(|r| r["split"].as_str()).collect::<Vec<_>>(), ["train", "val", "test"]);
        assert!(rows[0]["report"].starts_with("A caption, train"));
    }
}

#[test]
fn chexpert_plus_and_padchest() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("chexpert");
    let csv = "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,\
               section_clinical_history,section_findings,section_impression,split\n\
               train/patient1/study1/view1_frontal.jpg,,Frontal,AP,patient1,1,whole,72 years,\"Clear.\",Normal.,train\n\
               valid/patient2/study1/view1_frontal.jpg,,Lateral,,patient2,1,the whole report,,,,valid\n";
    write(root.join("df_chexpert_plus_240401.csv"), csv);
    picture(root.join("PNG/train/patient1/study1/view1_frontal.png"), 0);
    picture(root.join("PNG/valid/patient2/study1/view1_frontal.png"), 1);
    ok(dir.path(), &["data", "prepare", "chexpert-plus", "chexpert", "--out", "a", "--keep-paths"]);
    let a = rows(&dir.path().join("a/manifest.csv"));
    assert_eq!(a[0]["report"], "HISTORY: 72 years\nFINDINGS: Clear.\nIMPRESSION: Normal.");
    assert_eq!((a[1]["report"].as_str(), a[1]["split"].as_str()), ("the whole report", "val"));
    assert_eq!(a[0]["view"], "Frontal AP");

    let root = dir.path().join("padchest");
    let csv = ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,Projection,Report,Labels\n\
               0,a.png,0,20140915,s1,p1,PA,sin hallazgo patologico .,['normal']\n\
               1,b.png,1,20140916,s2,p2,L,derrame pleural derech .,\"['pleural effusion', 'cardiomegaly']\"\n\
               2,c.png,1,20140916,s3,p3,L,,[]\n";
    write(root.join("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"), gzip(csv));
    picture(root.join("0/a.png"), 0);
    picture(root.join("1/b.png"), 1);
    let said = ok(dir.path(), &["data", "prepare", "padchest", "padchest", "--out", "b"]);
    assert!(said.contains("2 rows") && said.contains("1 row whose report is empty"), "{said}");
    let b = rows(&dir.path().join("b/manifest.csv"));
    assert_eq!(b.iter().map(|r| r["label"].as_str()).collect::<Vec<_>>(), ["normal", "pleural effusion"]);
}

/// Volumes stay where they are: the manifest names them.
#[test]
fn ct_rate_and_merlin() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("CT-RATE/dataset");
    let header = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN\n";
    let rows_of = |rows: &str| format!("{header}{rows}");
    let train = "train_1_a_1.nii.gz,Cough,Not given.,\"Clear, dry.\",Normal.\n../x_1_a_1.nii.gz,,,x,\n\
                 train_2_a_1.nii.gz,,,Nodule.,\n";
    write(root.join("radiology_text_reports/train_reports.csv"), rows_of(train));
    write(root.join("radiology_text_reports/validation_reports.csv"), rows_of("valid_7_b_2.nii.gz,,,Fluid.,Fluid.\n"));
    let ct = |path: PathBuf| write(path, "a volume");
    ct(root.join("train/train_1/train_1_a/train_1_a_1.nii.gz"));
    ct(root.join("train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"));
    ct(root.join("valid/valid_7/valid_7_b/valid_7_b_2.nii.gz"));
    let args = ["data", "prepare", "ct-rate", "CT-RATE", "--out", "ct"];
    // Paths name patients and scans; volumes are not written anew.
    for (more, wanted) in [
        (&[][..], "volumes are not written under other names, --keep-paths leaves them"),
        (&["--size", "64"], "volumes stay as they are; leave out --size and --webdataset"),
        (&["--webdataset", "5"], "volumes stay as they are; leave out --size and --webdataset"),
    ] {
        for preset in ["ct-rate", "merlin"] {
            let mut args = args.to_vec();
            args[2] = preset;
            let output = run(dir.path(), &[&args, more].concat());
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(error.contains(wanted) && !error.contains("--size PIXELS"), "{preset} {more:?}: {error}");
            assert!(!dir.path().join("ct").exists(), "{preset} {more:?}");
        }
    }
    let output = run(dir.path(), &[&args[..], &["--keep-paths"]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("2 rows"), "{said}");
    assert!(said.contains("1 row whose VolumeName is none"), "{said}");
    assert!(!String::from_utf8(output.stderr).unwrap().contains("reconstructions"));
    let ct_rows = rows(&dir.path().join("ct/manifest.csv"));
    assert_eq!(ct_rows[0]["report"], "HISTORY: Cough\nFINDINGS: Clear, dry.\nIMPRESSION: Normal.");
    assert!(ct_rows[0]["image"].ends_with("train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"), "{:?}", ct_rows[0]);
    assert!(ct_rows[1]["image"].ends_with("valid/valid_7/valid_7_b/valid_7_b_2.nii.gz"));
    assert_eq!(ct_rows.iter().map(|r| r["split"].as_str()).collect::<Vec<_>>(), ["train", "val"]);
    let twice = format!("{train}train_1_a_2.nii.gz,,,Clear.,\n");
    write(root.join("radiology_text_reports/train_reports.csv"), rows_of(&twice));
    let told = String::from_utf8(run(dir.path(), &[&args[..], &["--keep-paths"]].concat()).stderr).unwrap();
    assert!(told.contains("4 reconstructions of 3 scans are a row each"), "{told}");

    let root = dir.path().join("merlinabdominalctdataset");
    write(root.join("reports_final.xlsx"), "PK");
    let args = ["data", "prepare", "merlin", ".", "--out", "me", "--keep-paths"];
    let error = String::from_utf8(run(dir.path(), &args).stderr).unwrap();
    assert!(error.contains("save its sheet as reports_final.csv"), "{error}");
    write(root.join("reports_final.csv"), "study id,Findings,Split\nAC1,Liver clear.,train\nAC2,Stones.,validation\n");
    ct(root.join("merlin_data/AC1.nii.gz"));
    ct(root.join("merlin_data/AC2.nii"));
    let told = String::from_utf8(run(dir.path(), &args).stderr).unwrap();
    assert!(told.contains("which studies are of one patient, so another split than its own"), "{told}");
    let merlin = rows(&dir.path().join("me/manifest.csv"));
    assert_eq!(merlin.iter().map(|r| r["split"].as_str()).collect::<Vec<_>>(), ["train", "val"]);
    assert_eq!(merlin[0]["report"], "FINDINGS: Liver clear.");
    assert!(merlin[1]["image"].ends_with("merlin_data/AC2.nii") && !merlin[1]["study_id"].contains("AC2"));
}

/// patient/study/series of DICOM slices, patient/series, and volumes as files: a row each, with the text that is its.
#[test]
fn a_folder_of_series_becomes_rows_of_volumes() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/volumes.json");
    let golden: serde_json::Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("studies");
    let series = |place: &str, number: usize| {
        for (name, file) in golden["series"][number]["files"].as_object().unwrap() {
            write(root.join(place).join(name), unpacked(file.as_str().unwrap()));
        }
    };
    series("Miller/first/1", 0);
    series("Miller/first/2", 1);
    write(root.join("Miller/first/report.txt"), "FINDINGS: of the study");
    series("Smith/chest", 2);
    write(root.join("Smith/chest/notes.txt"), "FINDINGS: inside");
    series("Smith/head", 3);
    write(root.join("Smith/head.txt"), "FINDINGS: beside");
    let volume = golden["drawn"][0]["file"].as_str().unwrap();
    write(root.join("Jones/a.nii.gz"), STANDARD.decode(volume).unwrap());
    write(root.join("Jones/a.txt"), "FINDINGS: of a file");
    picture(root.join("Jones/b.png"), 3);
    write(root.join("Jones/b.txt"), "FINDINGS: of a picture");
    series("Nobody/x", 0);
    for (name, number) in [("a", 0), ("b", 1)] {
        write(root.join(format!("Echo/x/{name}.dcm")), unpacked(golden["loops"][number]["file"].as_str().unwrap()));
    }
    write(root.join("Echo/x/report.txt"), "FINDINGS: of loops");
    // Two series in one folder, and what lies beside one.
    for number in [0, 2] {
        for (name, file) in golden["series"][number]["files"].as_object().unwrap() {
            write(root.join(format!("Flat/all/{number}-{name}")), unpacked(file.as_str().unwrap()));
        }
    }
    write(root.join("Flat/all.txt"), "FINDINGS: of several");
    write(root.join("Smith/head/mask.nii.gz"), "a mask");
    let args = ["data", "prepare", "folder", "studies", "--out", "out"];
    for more in [&[][..], &["--size", "32"], &["--webdataset", "2"]] {
        let error = String::from_utf8(run(dir.path(), &[&args, more].concat()).stderr).unwrap();
        assert!(error.contains("7 of 8 images are volumes") && error.contains("--keep-paths"), "{more:?}: {error}");
        assert!(!dir.path().join("out").exists() && !error.contains("Miller"), "{more:?}: {error}");
    }
    let said = ok(dir.path(), &[&args[..], &["--keep-paths"]].concat());
    assert!(
        said.contains("8 rows, 5 studies, 4 patients") && said.contains("left out: 1 row without a text"),
        "{said}"
    );
    for told in ["a folder of DICOM slices that are no one series", "a volume beside DICOM slices"] {
        assert!(said.contains(&format!("left out: 1 row as {told}")), "{told}: {said}");
    }
    let found = rows(&dir.path().join("out/manifest.csv"));
    let told: Vec<(&str, &str)> = found
        .iter()
        .map(|r| (r["image"].split_once("studies/").unwrap().1, r["report"].split_once(": ").unwrap().1))
        .collect();
    assert_eq!(
        told,
        [
            ("Echo/x/a.dcm", "of loops"),
            ("Echo/x/b.dcm", "of loops"),
            ("Jones/a.nii.gz", "of a file"),
            ("Jones/b.png", "of a picture"),
            ("Miller/first/1", "of the study"),
            ("Miller/first/2", "of the study"),
            ("Smith/chest", "inside"),
            ("Smith/head", "beside"),
        ]
    );
    let studies: Vec<&String> = found.iter().map(|row| &row["study_id"]).collect();
    assert!(studies[0] == studies[1] && studies[4] == studies[5] && studies[6] != studies[7]);
    // What was written is read, and the rows of a study become one.
    let lint = run(dir.path(), &["data", "lint", "out/manifest.csv", "--bag-by", "study_id", "--json"]);
    let lint = String::from_utf8(lint.stdout).unwrap();
    assert!(lint.contains("slices of volumes") && !lint.contains("unreadable"), "{lint}");
}

fn unpacked(packed: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let packed = STANDARD.decode(packed).unwrap();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut all).unwrap();
    all
}

/// Folders name patients, so their names go nowhere; DICOM headers neither.
#[test]
fn a_folder_becomes_shards_that_train_reads() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("studies");
    for i in 0..6 {
        let folder = root.join(format!("Miller_{i}/2020-01-0{}", i + 1));
        picture(folder.join("pa.png"), 2 * i);
        picture(folder.join("lateral.png"), 2 * i + 1);
        write(folder.join("report.txt"), format!("FINDINGS: number {i}"));
    }
    let phantom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/mono2_12.dcm");
    fs::copy(phantom, root.join("Miller_0/2020-01-01/ct.dcm")).unwrap();
    write(root.join("Miller_0/2020-01-01/broken.png"), "no image");
    let args = ["data", "prepare", "folder", "studies", "--out", "out", "--webdataset", "5"];
    let said = ok(dir.path(), &args);
    assert!(said.contains("3 shards") && said.contains("1 row whose image cannot be read"), "{said}");
    for entry in fs::read_dir(dir.path().join("out")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for name in [&b"Miller"[..], b"PHANTOM", b"2020-01", b"DICM"] {
            assert!(!bytes.windows(name.len()).any(|w| w == name));
        }
    }
    let pattern = dir.path().join("out/all-{000000..000002}.tar");
    let read = Manifest::open(&pattern, &Columns::default(), None).unwrap();
    assert_eq!((read.rows.len(), read.problems.len()), (13, 0));
    assert!(read.rows.iter().all(|r| r.image().read().is_ok() && r.patient_id().is_some()));
    // Whole shards stay; one that is missing is made again, the same to the byte.
    let shard = dir.path().join("out/all-000001.tar");
    let before = fs::read(&shard).unwrap();
    fs::remove_file(&shard).unwrap();
    fs::write(dir.path().join("out/all-000002.tar.partial"), "cut").unwrap();
    let again = ok(dir.path(), &args);
    assert_eq!((again, fs::read(&shard).unwrap()), (said, before));
    let plain = ok(dir.path(), &["data", "prepare", "folder", "studies", "--out", "plain"]);
    assert!(plain.contains("13 rows"), "{plain}");
    let manifest = fs::read_to_string(dir.path().join("plain/manifest.csv")).unwrap();
    assert!(!manifest.contains("Miller"));
}

/// Studies of one patient each, with an image and a report.
fn studies(dir: &Path, count: u32) {
    for i in 0..count {
        picture(dir.join(format!("studies/p{i}/a.png")), i);
        write(dir.join(format!("studies/p{i}/a.txt")), format!("FINDINGS: number {i}"));
    }
}

/// All files below `folder` that are images or shards, by their content.
fn pixels(folder: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|e| e.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("png" | "jpg" | "tar") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What a fresh folder holds is what one with older output must hold, whatever has changed since.
#[test]
fn nothing_stale_stays_in_a_prepared_folder() {
    for shards in [&[][..], &["--webdataset", "3"]] {
        let dir = tempfile::tempdir().unwrap();
        studies(dir.path(), 8);
        let root = dir.path().join("studies");
        let mut fresh = 0;
        let mut check = |what: &str, more: &[&str]| {
            fresh += 1;
            let new = format!("fresh-{fresh}");
            let args =
                |out| [&["data", "prepare", "folder", "studies", "--salt", "x", "--out", out], shards, more].concat();
            let said = ok(dir.path(), &args("grown")).replace("grown", "");
            assert_eq!(said, ok(dir.path(), &args(&new)).replace(&new, ""), "{what}");
            let (out, new) = (dir.path().join("grown"), dir.path().join(new));
            for name in ["manifest.csv", "rows.csv", "prepared.json"] {
                assert_eq!(fs::read(out.join(name)).ok(), fs::read(new.join(name)).ok(), "{what}: {name}");
            }
            assert!(pixels(&out) == pixels(&new), "{what}");
        };
        check("the first time", &[]);
        check("again", &[]);
        check("smaller", &["--size", "16"]);
        check("larger", &["--size", "20"]);
        check("as they are", &[]);
        write(root.join("p1/a.txt"), "FINDINGS: corrected");
        check("a corrected report", &[]);
        // Same length, same time, other pixels.
        let image = root.join("p2/a.png");
        let time = fs::metadata(&image).unwrap().modified().unwrap();
        let mut bytes = fs::read(root.join("p3/a.png")).unwrap();
        bytes.resize(fs::metadata(&image).unwrap().len() as usize, 0);
        fs::write(&image, bytes).unwrap();
        fs::File::options().write(true).open(&image).unwrap().set_modified(time).unwrap();
        check("another image", &[]);
        fs::remove_dir_all(root.join("p4")).unwrap();
        fs::remove_dir_all(root.join("p5")).unwrap();
        check("fewer studies", &[]);
        write(root.join("p6/a.png"), "broken");
        check("an image that broke", &[]);
        // What has another name is not touched.
        write(dir.path().join("grown/images/ab/mine.png"), "mine");
        write(dir.path().join("grown/mine-000000.tar"), "mine");
        ok(dir.path(), &[&["data", "prepare", "folder", "studies", "--salt", "x", "--out", "out"], shards].concat());
        assert!(
            dir.path().join("grown/images/ab/mine.png").is_file() && dir.path().join("grown/mine-000000.tar").is_file()
        );
    }
}

#[test]
fn what_is_finished_is_not_done_again() {
    for shards in [&[][..], &["--webdataset", "2"]] {
        let dir = tempfile::tempdir().unwrap();
        studies(dir.path(), 6);
        let args = [&["data", "prepare", "folder", "studies", "--size", "16", "--out", "out"], shards].concat();
        ok(dir.path(), &args);
        let times = || {
            let mut paths: Vec<PathBuf> =
                glob::glob(&dir.path().join("out/**/*").to_string_lossy()).unwrap().flatten().collect();
            paths.retain(|p| p.extension().is_some_and(|e| e == "jpg" || e == "tar"));
            paths.into_iter().map(|p| (fs::metadata(&p).unwrap().modified().unwrap(), p)).collect::<Vec<_>>()
        };
        let before = times();
        assert_eq!(before.len(), if shards.is_empty() { 6 } else { 3 });
        ok(dir.path(), &args);
        assert_eq!(times(), before);
        write(dir.path().join("studies/p0/a.txt"), "FINDINGS: corrected");
        ok(dir.path(), &args);
        let rewritten = times().iter().zip(&before).filter(|(a, b)| a != b).count();
        assert_eq!(rewritten, usize::from(!shards.is_empty()), "one shard holds that row, and no image changes");
    }
}

#[test]
fn another_salt_or_data_set_and_nothing_readable_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    studies(dir.path(), 3);
    let error = |args: &[&str]| {
        let output = run(dir.path(), &[&["data", "prepare"], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap().trim().to_string()
    };
    ok(dir.path(), &["data", "prepare", "folder", "studies", "--out", "out", "--salt", "x"]);
    let other = error(&["folder", "studies", "--out", "out", "--salt", "y"]);
    assert!(other.contains("out: was made with another salt"), "{other}");
    let none = error(&["folder", "studies", "--out", "out"]);
    assert!(none.contains("out: was made with a --salt; name the same one"), "{none}");
    let empty = error(&["folder", "studies", "--out", "new", "--salt", " "]);
    assert!(empty.contains("--salt is empty"), "{empty}");
    write(dir.path().join("roco/train_captions.csv"), "ID,Caption\na,text\n");
    picture(dir.path().join("roco/train/a.jpg"), 0);
    let other = error(&["roco", "roco", "--out", "out", "--salt", "x"]);
    assert!(other.contains("holds what was made from folder; name another --out for roco"), "{other}");
    write(dir.path().join("older/manifest.csv"), "image,report\n");
    let older = error(&["folder", "studies", "--out", "older"]);
    assert!(older.contains("holds manifest.csv without prepared.json"), "{older}");
    for more in [&[][..], &["--webdataset", "2"]] {
        for i in 0..3 {
            write(dir.path().join(format!("studies/p{i}/a.png")), "broken");
        }
        let args = [&["folder", "studies", "--out", "none"], more].concat();
        let told = error(&args);
        assert!(told.contains("error: studies: none of the 3 images can be read; `"), "{args:?}: {told}");
    }
    // The salt that was drawn is its owner's from the first byte; a look at the finished file is all that a test has.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let salt = fs::metadata(dir.path().join("none/salt")).unwrap();
        assert_eq!(salt.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn paths_that_hold_numbers_of_patients_are_kept_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mimic");
    write(root.join("mimic-cxr-2.0.0-metadata.csv"), "dicom_id,subject_id,study_id\naaaa-1,10000032,50414267\n");
    picture(root.join("files/p10/p10000032/s50414267/aaaa-1.jpg"), 0);
    write(root.join("files/p10/p10000032/s50414267.txt"), "FINDINGS: clear.");
    let args = ["data", "prepare", "mimic-cxr", "mimic", "--out", "out"];
    let output = run(dir.path(), &args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("--keep-paths leaves them where they are"), "{error}");
    assert!(!dir.path().join("out").exists());
    ok(dir.path(), &[&args[..], &["--keep-paths"]].concat());
    assert!(rows(&dir.path().join("out/manifest.csv"))[0]["image"].ends_with("p10000032/s50414267/aaaa-1.jpg"));
    ok(dir.path(), &[&args[..], &["--webdataset", "5"]].concat());
    assert!(!dir.path().join("out/manifest.csv").exists(), "the one with the paths");
    let said = fs::read_to_string(dir.path().join("out/rows.csv")).unwrap();
    assert!(!said.contains("10000032") && !said.contains("50414267"), "{said}");
}

/// A disk that is full: nothing half written stays. `ulimit` bounds the length of files; 512 bytes hold no shard.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_temporary_files() {
    let dir = tempfile::tempdir().unwrap();
    studies(dir.path(), 3);
    let binary = env!("CARGO_BIN_EXE_reportclip");
    let fails = |args: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 1; exec {binary} data {args}");
        let output = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args}: {error}");
        assert_eq!(error.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{args}: {error}");
    };
    fails("prepare folder studies --out shards --webdataset 3");
    fails("synth --out phantom --patients 3 --size 64");
    for out in ["shards", "phantom"] {
        let left: Vec<_> =
            fs::read_dir(dir.path().join(out)).into_iter().flatten().map(|e| e.unwrap().path()).collect();
        let temporary = |p: &&PathBuf| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with('.') && name != ".lock" || name.ends_with("partial")
        };
        assert!(!left.iter().any(|p| temporary(&p)), "{left:?}");
    }
}

#[test]
fn presets_split_and_lint_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let error = |args: &[&str]| {
        let output = run(dir.path(), args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap().lines().last().unwrap_or_default().to_string()
    };
    assert!(error(&["data", "prepare", "opnei", ".", "--out", "x"]).ends_with("did you mean openi?"));
    ok(dir.path(), &["data", "synth", "--out", "ph", "--patients", "40"]);
    let taken = error(&["data", "split", "ph/manifest.csv", "--out", "ph/manifest.csv"]);
    assert!(taken.contains("is there already; --force"), "{taken}");
    let odd = error(&["data", "split", "ph/manifest.csv", "--out", "s.csv", "--shares", "train=0.9,val=0.2"]);
    assert!(odd.contains("they add up to 1.1"), "{odd}");
    let said =
        ok(dir.path(), &["data", "split", "ph/manifest.csv", "--out", "ph/split.csv", "--stratify", "label", "--json"]);
    let splits: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(splits["splits"].as_array().unwrap().len(), 3);
    ok(dir.path(), &["data", "lint", "ph/split.csv", "--html", "page.html"]);
    assert!(fs::read_to_string(dir.path().join("page.html")).unwrap().contains("rows a split"));
    // A manifest with everything wrong: each is found, and no report, patient or name is told.
    for i in 0..4 {
        picture(dir.path().join(format!("ph/i{i}.png")), i);
    }
    fs::copy(dir.path().join("ph/i0.png"), dir.path().join("ph/copy.png")).unwrap();
    write(dir.path().join("ph/blank.png"), image::png(&gray(80, 80, |_, _| 9)).unwrap());
    write(dir.path().join("ph/lfs.png"), "version https://git-lfs.github.com/spec/v1\n");
    let bad = "image,report,patient_id,split\ni0.png,Effusion on the left of 3 cm.,secretA,train\n\
               copy.png,Effusion on the left of 5 cm.,secretB,val\ni1.png,Seen by Dr. Smith,secretA,val\n\
               i2.png,Effusion on the left of 3 cm.,secretC,train\nblank.png,fine and long enough,secretD,train\n\
               lfs.png,fine and long enough,secretE,train\nnone.png,x,secretF,train\ni3.png,,secretG,train\n";
    write(dir.path().join("ph/bad.csv"), bad);
    let output = run(dir.path(), &["data", "lint", "ph/bad.csv", "--json", "--html", "bad.html"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let codes: Vec<&str> = report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    for code in [
        "missing_image",
        "empty_report",
        "unreadable_image",
        "blank_image",
        "tiny_image",
        "same_image_other_report",
        "same_image_other_patient",
        "leaking_patient",
        "leaking_copy",
        "duplicate_report",
        "template_report",
        "identifier",
        "names_a_side",
    ] {
        assert!(codes.contains(&code), "{code}: {codes:?}");
    }
    let page = fs::read_to_string(dir.path().join("bad.html")).unwrap();
    let all = format!("{}{}{page}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!all.contains("secret") && !all.contains("Smith") && !all.contains("Effusion"));
    assert!(page.contains("data:image/jpeg;base64,"));
}

/// 3,955 real reports, where `REPORTCLIP_OPENI` names the archive that Open-i gives out: each section as the XML labels
/// it.
#[test]
fn sections_of_open_i_are_those_of_its_labels() {
    let Some(archive) = named_by("REPORTCLIP_OPENI", "Open-i's NLMCXR_reports.tgz") else { return };
    use reportclip::data::sections::{Section, text};
    let file = flate2::read::GzDecoder::new(fs::File::open(archive).unwrap());
    let mut tar = tar::Archive::new(file);
    let sections = [Section::Indication, Section::Comparison, Section::Findings, Section::Impression];
    let forms = ["lines", "one line", "mixed case, own line", "capitals without colon"];
    let mut right = [[0usize; 4]; 4];
    let mut there = [0usize; 4];
    let mut failures = Vec::new();
    let mut reports = 0;
    for member in tar.entries().unwrap() {
        let mut member = member.unwrap();
        if member.path().unwrap().extension().is_none_or(|e| e != "xml") {
            continue;
        }
        let mut xml = String::new();
        std::io::Read::read_to_string(&mut member, &mut xml).unwrap();
        let document = roxmltree::Document::parse(&xml).unwrap();
        reports += 1;
        let label = |name: &str| {
            let found = document.descendants().find(|n| n.attribute("Label") == Some(name));
            found
                .and_then(|n| n.text())
                .map(|t| t.split_whitespace().collect::<Vec<_>>().join(" "))
                .filter(|t| !t.is_empty())
        };
        let truth = sections.map(|s| label(s.heading()));
        truth.iter().enumerate().for_each(|(i, t)| there[i] += usize::from(t.is_some()));
        for (form, _) in forms.iter().enumerate() {
            let parts = sections.iter().zip(&truth).filter_map(|(s, t)| Some((s.heading(), t.as_ref()?)));
            let report: String = parts
                .map(|(h, t)| match form {
                    0 => format!("{h}: {t}\n"),
                    1 => format!("{h}: {t} "),
                    2 => format!("{}{}:\n{t}\n\n", &h[..1], h[1..].to_lowercase()),
                    _ => format!("{h}\n{t}\n"),
                })
                .collect();
            for (i, section) in sections.iter().enumerate() {
                let parsed = text(&report, *section).map(|t| t.split_whitespace().collect::<Vec<_>>().join(" "));
                match parsed == truth[i] {
                    true => right[form][i] += usize::from(truth[i].is_some()),
                    false => failures.push(format!("{} {} {}", label_of(&document), forms[form], section.heading())),
                }
            }
        }
    }
    println!("{reports} reports; sections there: {there:?}; parsed: {right:?} of {forms:?}");
    println!("{} failures:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(reports, 3955);
    for (form, right) in right.iter().enumerate() {
        for (n, all) in right.iter().zip(there) {
            assert!(1000 * n >= 990 * all, "{}: {right:?} of {there:?}", forms[form]);
        }
    }
}

fn label_of(document: &roxmltree::Document) -> String {
    let uid = document.descendants().find(|n| n.has_tag_name("uId"));
    uid.and_then(|n| n.attribute("id")).unwrap_or_default().to_string()
}

/// Patients, notes and pictures bind rows to one split; what has no note or is no image is left out, licences are kept.
#[test]
fn covid_chestxray() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("clone");
    let mut lines = vec![
        "patientid,offset,sex,age,finding,RT_PCR_positive,view,modality,folder,filename,doi,url,license,clinical_notes"
            .to_string(),
    ];
    for i in 0..40u32 {
        let (file, finding) = (format!("scan {i}.png"), ["Pneumonia/Viral/COVID-19", "No Finding"][i as usize % 2]);
        // Two images a patient; patients 3 and 9 have one note, which differs in marks only.
        let patient = i / 2;
        let note = match patient {
            3 => "Shared   note,\tof both.".to_string(),
            9 => "shared note of both".to_string(),
            n => format!("The note of patient {n}"),
        };
        lines.push(format!(
            "p{patient},0,F,50,{finding},Y,PA,X-ray,images,{file},10.1/x,https://a/{i},CC BY,\"{note}\""
        ));
        // Patients 5 and 15 have one picture, in two formats.
        let seed = if i == 30 { 10 } else { i };
        let drawn = gray(120, 100, |x, y| {
            let wave = |a: u32, b: u32| f64::from(x * (a % 7 + 1) + y * (b % 5 + 1)) / (6.0 + f64::from(seed % 11));
            (127.0 + 60.0 * wave(seed, seed / 3).sin() + 60.0 * wave(seed / 2 + 3, seed + 1).cos()) as u8
        });
        let bytes = if i == 30 { image::reduced(&drawn, None) } else { image::png(&drawn) };
        write(root.join("images").join(file), bytes.unwrap());
    }
    lines.push("p90,0,M,,todo,,Axial,CT,volumes,scan.nii.gz,,,,A note of a whole volume".into());
    lines.push("p91,0,M,,todo,,PA,X-ray,images,short.png,,,,short".into());
    lines.push("p91,1,M,,todo,,PA,X-ray,images,shorter.png,,,,few".into());
    lines.push("p92,0,M,,todo,,PA,X-ray,images,../../escape.png,,,,A note that leads elsewhere".into());
    lines.push("p93,0,M,,todo,,PA,X-ray,images,gone.png,,,,A note without its picture".into());
    write(root.join("metadata.csv"), lines.join("\n"));
    let args = ["data", "prepare", "covid-chestxray", "clone", "--out", "out", "--size", "64"];
    let said = ok(dir.path(), &args);
    assert!(said.contains("40 rows, 0 studies, 20 patients"), "{said}");
    assert!(said.contains("left out: 1 row whose image is not there"), "{said}");
    for line in [
        "left out: 1 row of another folder than images",
        "left out: 2 rows whose note is shorter than 10 characters",
        "left out: 1 row whose image has no name of a file",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let summary: Value = serde_json::from_slice(&fs::read(dir.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["left_out"]["whose note is shorter than 10 characters"], 2);
    let rows = rows(&dir.path().join("out/manifest.csv"));
    let split = |i: usize| rows[i]["split"].as_str();
    for patient in 0..20 {
        assert_eq!(split(2 * patient), split(2 * patient + 1), "patient {patient}");
    }
    assert_eq!(split(6), split(18), "one note");
    assert_eq!(split(10), split(30), "one picture");
    for (name, least) in [("train", 20), ("val", 4), ("test", 4)] {
        assert!((0..40).filter(|&i| split(i) == name).count() >= least, "{name}");
    }
    let first = &rows[0];
    assert_eq!((first["label"].as_str(), first["license"].as_str()), ("COVID-19", "CC BY"));
    assert_eq!((first["modality"].as_str(), first["sex"].as_str()), ("X-ray", "F"));
    assert_eq!((first["source_url"].as_str(), first["doi"].as_str()), ("https://a/0", "10.1/x"));
    assert_eq!(rows[6]["report"], "Shared note, of both.");
    assert!(first["image"].starts_with("images/") && !first["patient_id"].contains("p0"));
    // The config starts at that manifest, and the same command gives the same splits.
    assert_eq!(ok(dir.path(), &args), said);
    let found = Manifest::open(&dir.path().join("out/manifest.csv"), &Columns::default(), None).unwrap();
    assert!(found.problems.is_empty() && found.splits().len() == 3, "{:?}", found.splits());
}

/// A row a box; the manifest is its own table of places, in pixels of the images as the data set has them.
#[test]
fn ms_cxr_and_chestx_det() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("ms");
    let image = |study: u32| format!("files/p10/p10000032/s{study}/a{study}.jpg");
    let table = format!(
        "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split\n\
         Pneumonia,right lower opacity,{0},4,3,20,10,40,30,a1,val\n\
         Edema,\"haze, both sides\",{0},1,1,30,20,40,30,a1,val\n\
         Edema,mild edema,{1},0,0,8,8,80,60,a2,test\nEdema,elsewhere,../../x.jpg,0,0,8,8,80,60,a3,test\n",
        image(1),
        image(2)
    );
    write(root.join("MS_CXR_Local_Alignment_v1.1.0.csv"), table);
    picture(root.join(image(1)), 0);
    picture(root.join("mimic-cxr-jpg").join(image(2)), 1);
    let said = ok(dir.path(), &["data", "prepare", "ms-cxr", "ms", "--out", "a", "--size", "20"]);
    assert!(said.contains("3 rows") && said.contains("1 row whose image has no name"), "{said}");
    let a = rows(&dir.path().join("a/manifest.csv"));
    assert_eq!((a[1]["report"].as_str(), a[1]["label"].as_str()), ("haze, both sides", "Edema"));
    assert_eq!((a[0]["x"].as_str(), a[0]["image_width"].as_str(), a[2]["split"].as_str()), ("4", "40", "test"));
    assert!(!fs::read_to_string(dir.path().join("a/manifest.csv")).unwrap().contains("10000032"));
    let places = reportclip::data::read_places(&dir.path().join("a/manifest.csv")).unwrap();
    assert_eq!(places.len(), 3);
    assert!(
        places
            .iter()
            .all(|place| place.regions[0].measured_on.is_some() && a.iter().any(|row| row["image"] == place.image))
    );

    let root = dir.path().join("det");
    let json = r#"[{"file_name": "1.png", "syms": ["Effusion", "Mass"], "boxes": [[10, 20, 30, 50], [1, 2, 3, 4]],
        "polygons": [[[10, 20], [30, 20], [30, 50]], [[1, 2], [3, 2], [3, 4], [1, 4]]]},
        {"file_name": "1.png", "syms": ["Nodule"], "boxes": [[5, 5, 5, 9]]},
        {"file_name": "2.png", "syms": [], "boxes": [], "polygons": []}]"#;
    write(root.join("ChestX_Det_train.json"), json);
    picture(root.join("train/1.png"), 0);
    let said = ok(dir.path(), &["data", "prepare", "chestx-det", "det", "--out", "b"]);
    assert!(said.contains("2 rows") && said.contains("1 row without a finding"), "{said}");
    assert!(said.contains("1 row whose box is empty"), "{said}");
    let b = rows(&dir.path().join("b/manifest.csv"));
    assert_eq!((b[0]["report"].as_str(), b[0]["width"].as_str(), b[0]["height"].as_str()), ("Effusion", "20", "30"));
    assert_eq!(b[1]["polygon"], "1 2 3 2 3 4 1 4");
    let sharded = run(dir.path(), &["data", "prepare", "chestx-det", "det", "--out", "shards", "--webdataset", "2"]);
    assert!(!sharded.status.success() && !dir.path().join("shards").exists(), "refused before it writes");
    assert!(String::from_utf8_lossy(&sharded.stderr).contains("1 rows share their image with another, as boxes do"));
    write(root.join("ChestX_Det_test.json"), r#"[{"file_name": "3.png", "syms": ["Mass"], "boxes": []}]"#);
    let failed = run(dir.path(), &["data", "prepare", "chestx-det", "det", "--out", "c"]);
    let error = String::from_utf8(failed.stderr).unwrap();
    assert!(error.contains("ChestX_Det_test.json: image 1: has 1 findings, 0 boxes and 0 polygons"), "{error}");
}
