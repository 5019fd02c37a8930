//! Sections of a clinical report: where FINDINGS begin and end. English and Chinese.
//!
//! A heading stands at the beginning of a line, or after a sentence, or in capitals within small letters; it is
//! followed by a colon or stands alone on its line. Sub-headings such as `LUNGS:` stay part of their section. What is
//! said in a section is not looked at.

pub use super::blanks::without_blanks;
pub use super::sentences::sentences;

/// A part of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// What stands before the first heading.
    Preamble,
    /// Why the study was asked for.
    Indication,
    /// What is known of the patient.
    History,
    /// How the study was made.
    Technique,
    /// What it was compared with.
    Comparison,
    /// What is seen.
    Findings,
    /// What it means.
    Impression,
    /// Signatures, notifications, addenda.
    Other,
}

impl Section {
    /// As reports write it.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Preamble => "",
            Self::Indication => "INDICATION",
            Self::History => "HISTORY",
            Self::Technique => "TECHNIQUE",
            Self::Comparison => "COMPARISON",
            Self::Findings => "FINDINGS",
            Self::Impression => "IMPRESSION",
            Self::Other => "OTHER",
        }
    }
}

use Section::{Comparison, Findings, History, Impression, Indication, Other, Technique};

/// Headings in lower case. A combined heading counts as its first part.
const HEADINGS: &[(&str, Section)] = &[
    ("findings", Findings),
    ("finding", Findings),
    ("findings and impression", Findings),
    ("findings/impression", Findings),
    ("description", Findings),
    ("report", Findings),
    ("impression", Impression),
    ("impressions", Impression),
    ("conclusion", Impression),
    ("conclusions", Impression),
    ("opinion", Impression),
    ("interpretation", Impression),
    ("diagnosis", Impression),
    ("final impression", Impression),
    ("summary", Impression),
    ("indication", Indication),
    ("indications", Indication),
    ("clinical indication", Indication),
    ("reason for exam", Indication),
    ("reason for examination", Indication),
    ("reason for study", Indication),
    ("reason for this examination", Indication),
    ("history", History),
    ("clinical history", History),
    ("clinical information", History),
    ("clinical data", History),
    ("patient history", History),
    ("technique", Technique),
    ("procedure", Technique),
    ("protocol", Technique),
    ("exam", Technique),
    ("examination", Technique),
    ("type of examination", Technique),
    ("study", Technique),
    ("views", Technique),
    ("comparison", Comparison),
    ("comparisons", Comparison),
    ("comparison studies", Comparison),
    ("comparison study", Comparison),
    ("recommendation", Other),
    ("recommendations", Other),
    ("recommendation(s)", Other),
    ("notification", Other),
    ("addendum", Other),
    ("wet read", Other),
    ("final report", Other),
    ("electronically signed by", Other),
    ("dictated by", Other),
    ("signed by", Other),
    ("检查所见", Findings),
    ("影像学表现", Findings),
    ("影像表现", Findings),
    ("影像所见", Findings),
    ("影像学所见", Findings),
    ("放射学表现", Findings),
    ("超声所见", Findings),
    ("镜下所见", Findings),
    ("肉眼所见", Findings),
    ("内镜所见", Findings),
    ("ct所见", Findings),
    ("ct表现", Findings),
    ("mr所见", Findings),
    ("mri所见", Findings),
    ("x线所见", Findings),
    ("x线表现", Findings),
    ("所见", Findings),
    ("表现", Findings),
    ("描述", Findings),
    ("诊断意见", Impression),
    ("影像诊断", Impression),
    ("影像学诊断", Impression),
    ("影像意见", Impression),
    ("放射学诊断", Impression),
    ("超声提示", Impression),
    ("超声诊断", Impression),
    ("病理诊断", Impression),
    ("检查结论", Impression),
    ("诊断结论", Impression),
    ("诊断印象", Impression),
    ("印象", Impression),
    ("意见", Impression),
    ("结论", Impression),
    ("诊断", Impression),
    ("提示", Impression),
    ("检查目的", Indication),
    ("检查原因", Indication),
    ("申请目的", Indication),
    ("临床诊断", History),
    ("临床病史", History),
    ("临床资料", History),
    ("临床表现", History),
    ("病史", History),
    ("主诉", History),
    ("检查方法", Technique),
    ("检查技术", Technique),
    ("扫描方法", Technique),
    ("扫描技术", Technique),
    ("检查部位", Technique),
    ("检查项目", Technique),
    ("检查名称", Technique),
    ("成像技术", Technique),
    ("对比", Comparison),
    ("比较", Comparison),
    ("对照", Comparison),
    ("建议", Other),
    ("报告医师", Other),
    ("报告医生", Other),
    ("审核医师", Other),
    ("审核医生", Other),
];

/// No heading is longer, in characters.
const LONGEST: usize = 32;

/// Sections in order, without their headings; empty ones are left out.
pub fn parse(report: &str) -> Vec<(Section, &str)> {
    let mut sections = Vec::new();
    let (mut current, mut start) = (Section::Preamble, 0);
    let mut close = |section, text: &'_ str| {
        let range = text.trim_matches(|c: char| c.is_whitespace());
        if !range.is_empty() {
            sections.push((section, offset(report, range), range.len()));
        }
    };
    let mut at = 0;
    // In a report of small letters capitals stand out wherever they are; one in capitals has none that do.
    let capitals = report.bytes().filter(u8::is_ascii_uppercase).count();
    let small = report.bytes().filter(u8::is_ascii_lowercase).count() > capitals;
    // Whether a heading may begin here: at a line's start any, after a sentence one in capitals.
    let (mut line_start, mut sentence_start) = (true, true);
    while let Some(c) = report[at..].chars().next() {
        let may_begin = line_start
            || sentence_start
            || (small && c.is_ascii_uppercase() && report[..at].ends_with(char::is_whitespace));
        let may = if may_begin { heading(&report[at..], line_start) } else { None };
        if let Some((section, len)) = may {
            close(current, &report[start..at]);
            (current, start) = (section, at + len);
            at += len;
            // Text follows its heading on the line, perhaps another heading.
            (line_start, sentence_start) = (report[..at].ends_with('\n'), true);
            continue;
        }
        match c {
            '\n' | '\r' => (line_start, sentence_start) = (true, true),
            '.' | '。' | ';' | '；' | '!' | '?' | '！' | '？' | ':' | '：' | '_' | ']' | 'X' => {
                sentence_start = true
            }
            c if c.is_whitespace() => {}
            _ => (line_start, sentence_start) = (false, false),
        }
        if !c.is_whitespace() {
            line_start = false;
        }
        at += c.len_utf8();
    }
    close(current, &report[start..]);
    sections.into_iter().map(|(section, at, len)| (section, &report[at..at + len])).collect()
}

fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// The heading that `text` begins with, and its length with colon and brackets.
fn heading(text: &str, line_start: bool) -> Option<(Section, usize)> {
    let (bracket, inner) = match text.chars().next()? {
        c @ ('【' | '[' | '＜' | '<' | '「' | '〔') => (true, &text[c.len_utf8()..]),
        c if c.is_alphanumeric() => (false, text),
        _ => return None,
    };
    let stops = |c: char| {
        matches!(c, ':' | '：' | '\n' | '\r' | '】' | ']' | '＞' | '>' | '」' | '〕' | '.' | '。' | ',' | '，')
    };
    let (name, rest) = match inner.char_indices().take(LONGEST + 1).find(|&(_, c)| stops(c)) {
        Some((end, _)) => inner.split_at(end),
        None if inner.chars().nth(LONGEST).is_none() => inner.split_at(inner.len()),
        None => return None,
    };
    let words = name.trim();
    let lower = words.to_lowercase();
    let lower = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let section = HEADINGS.iter().find(|(known, _)| *known == lower)?.1;
    let in_capitals = !words.chars().any(char::is_lowercase);
    let ideographs = !words.is_ascii();
    let before = offset(text, rest);
    match rest.chars().next() {
        Some(c @ (':' | '：')) if line_start || in_capitals => Some((section, before + c.len_utf8())),
        Some(c @ ('】' | ']' | '＞' | '>' | '」' | '〕')) if bracket && (line_start || ideographs) => {
            let end = before + c.len_utf8();
            let colon = text[end..].chars().next().filter(|c| matches!(c, ':' | '：')).map_or(0, char::len_utf8);
            Some((section, end + colon))
        }
        // Alone on its line; a line of running text is longer.
        None | Some('\n' | '\r') if line_start && !bracket => Some((section, before)),
        _ => None,
    }
}

/// All text of a section, joined by line feeds where a report has it twice; `None` where it has none. A heading such as
/// FINDINGS AND IMPRESSION counts as findings only.
pub fn text(report: &str, section: Section) -> Option<String> {
    let parts: Vec<&str> = parse(report).into_iter().filter(|(s, _)| *s == section).map(|(_, text)| text).collect();
    (!parts.is_empty()).then(|| parts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(report: &str) -> Vec<(&'static str, &str)> {
        parse(report).into_iter().map(|(s, text)| (s.heading(), text)).collect()
    }

    #[test]
    fn english_in_all_forms() {
        let wanted = [("INDICATION", "Cough."), ("FINDINGS", "Clear lungs. No effusion."), ("IMPRESSION", "Normal.")];
        for report in [
            "INDICATION: Cough.\nFINDINGS: Clear lungs. No effusion.\nIMPRESSION: Normal.",
            "Indication: Cough.\r\nFindings: Clear lungs. No effusion.\r\nImpression: Normal.",
            "INDICATION: Cough. FINDINGS: Clear lungs. No effusion. IMPRESSION: Normal.",
            "Indication\nCough.\n\nFindings\nClear lungs. No effusion.\n\nImpression\nNormal.",
            "indication : Cough.\nfindings : Clear lungs. No effusion.\nimpression : Normal.",
            "  INDICATION:  Cough.\n\n  FINDINGS:\n\n  Clear lungs. No effusion.\n  IMPRESSION:\n  Normal.\n",
        ] {
            assert_eq!(parts(report), wanted, "{report}");
        }
    }

    #[test]
    fn the_form_of_mimic_cxr() {
        let report = "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n \
                      INDICATION:  ___F with cough // pneumonia?\n \n COMPARISON:  ___\n \n FINDINGS: \n \n \
                      LUNGS: Clear.\n HEART: Normal.\n \n IMPRESSION: \n \n No acute process.\n";
        assert_eq!(
            parts(report),
            [
                ("TECHNIQUE", "CHEST (PA AND LAT)"),
                ("INDICATION", "___F with cough // pneumonia?"),
                ("COMPARISON", "___"),
                ("FINDINGS", "LUNGS: Clear.\n HEART: Normal."),
                ("IMPRESSION", "No acute process."),
            ]
        );
    }

    #[test]
    fn chinese() {
        for report in [
            "检查所见：右下肺见斑片影。心影不大。\n诊断意见：右下肺炎症。",
            "【检查所见】右下肺见斑片影。心影不大。【诊断意见】右下肺炎症。",
            "影像学表现:右下肺见斑片影。心影不大。印象:右下肺炎症。",
            "影像学表现\n右下肺见斑片影。心影不大。\n印象\n右下肺炎症。",
        ] {
            assert_eq!(
                parts(report),
                [("FINDINGS", "右下肺见斑片影。心影不大。"), ("IMPRESSION", "右下肺炎症。")],
                "{report}"
            );
        }
        assert_eq!(text("右下肺见斑片影，提示炎症。", Section::Impression), None);
    }

    #[test]
    fn running_text_is_no_heading() {
        for report in [
            "Findings are consistent with pneumonia.",
            "No change; impression of a nodule remains. History of cough.",
            "Comparison is made to the study of last year.",
            "There are no acute findings: the lungs are clear.",
            "NO ACUTE FINDINGS: THE LUNGS ARE CLEAR",
        ] {
            assert_eq!(parts(report), [("", report)]);
        }
        assert_eq!(
            text(
                "INDICATION: CHF FINDINGS: all lung fields are quite clear IMPRESSION: nothing abnormal is seen",
                Section::Findings
            )
            .unwrap(),
            "all lung fields are quite clear"
        );
        assert_eq!(text("FINDINGS AND IMPRESSION: Clear.", Section::Impression), None);
        assert_eq!(text("FINDINGS AND IMPRESSION: Clear.", Section::Findings).unwrap(), "Clear.");
    }

    #[test]
    fn twice_missing_and_empty() {
        assert_eq!(text("FINDINGS: a\nIMPRESSION: b\nFINDINGS: c", Section::Findings).unwrap(), "a\nc");
        assert_eq!(text("FINDINGS:\nIMPRESSION: b", Section::Findings), None);
        assert_eq!(parts(""), []);
    }

    #[test]
    fn hostile_text_is_read_in_time() {
        for text in [
            ":".repeat(100_000),
            "\n".repeat(100_000),
            "【".repeat(50_000),
            "FINDINGS:".repeat(20_000),
            "[".repeat(100_000),
            "_".repeat(100_000),
            "1.".repeat(50_000),
        ] {
            parse(&text);
            sentences(&text);
            without_blanks(&text);
        }
    }
}
