//! PadChest: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv and images in 0/ … 54/. Reports are Spanish.

use std::path::Path;

use anyhow::Result;

use super::entry::{Entry, Found, NO_NAME, first_there};
use super::sheet;

pub(super) fn read(root: &Path) -> Result<Found> {
    let path = sheet::required(root, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")?;
    let mut found = Found::default();
    let columns = ["ImageID", "ImageDir?", "StudyID", "PatientID", "Projection?", "Report", "Labels?"];
    let long = sheet::each(&path, columns, |[image, folder, study, patient, view, report, labels]| {
        if image.is_empty() || image.contains(['/', '\\']) || folder.contains("..") {
            found.leave_out(NO_NAME);
            return Ok(());
        }
        let some = |text: &str| Some(text.trim().to_string()).filter(|t| !t.is_empty() && t != "nan");
        // "['normal']", "['pleural effusion', 'cardiomegaly']"
        let label = labels.split(',').next().map(|l| l.trim_matches(['[', ']', '\'', '"', ' ']));
        found.entries.push(Entry {
            image: first_there(vec![
                root.join(folder).join(image),
                root.join(image),
                root.join("images-224").join(image),
            ]),
            report: some(report).unwrap_or_default(),
            patient: some(patient),
            study: some(study),
            view: some(view),
            label: label.and_then(some),
            ..Entry::default()
        });
        Ok(())
    })?;
    found.leave_out_long(long);
    Ok(found)
}
