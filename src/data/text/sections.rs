//! Sections of a clinical report: where FINDINGS begin and end. English and Chinese.
//!
//! A heading stands at the beginning of a line, or after a sentence, or in capitals within small letters; it is followed by
//! a colon or stands alone on its line. Sub-headings such as `LUNGS:` stay part of their section. What is said in a section is not looked
//! at.

use std::borrow::Cow;

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

/// Words that end in a full stop which ends no sentence.
const ABBREVIATIONS: [&str; 24] = [
    "dr", "mr", "mrs", "ms", "prof", "st", "vs", "e.g", "i.e", "eg", "ie", "no", "approx", "ca", "cf", "fig", "resp",
    "cm", "mm", "a.m", "p.m", "pt", "incl", "max",
];

/// Sentences, without the numbers of list items. A stop within a number, after an abbreviation or an initial ends none.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, c)| c);
        let ends = match c {
            '。' | '！' | '？' | '；' | '!' | '?' | '\n' => true,
            '.' => next.is_none_or(char::is_whitespace) && !is_abbreviation(&text[start..at], next, &text[at + 1..]),
            _ => false,
        };
        if ends {
            push_sentence(&text[start..at + c.len_utf8()], &mut found);
            start = at + c.len_utf8();
        }
    }
    push_sentence(&text[start..], &mut found);
    found
}

fn is_abbreviation(before: &str, next: Option<char>, after: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let lower = word.to_lowercase();
    // The number of a list item, taken off with the sentence that follows it.
    let item = before.trim().len() == word.len() && word.chars().all(|c| c.is_ascii_digit()) && !word.is_empty();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    // "3 cm. The" ends, "3 cm. in" does not.
    let goes_on = after.trim_start().chars().next().is_some_and(char::is_lowercase);
    let unit = matches!(lower.as_str(), "cm" | "mm" | "no" | "max");
    let known = ABBREVIATIONS.contains(&lower.as_str());
    next.is_some() && (item || initial || (known && (!unit || goes_on)))
}

fn push_sentence<'a>(text: &'a str, found: &mut Vec<&'a str>) {
    let mut text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 0 && digits <= 2 {
        let rest = &text[digits..];
        let marked = [". ", ") ", "、", ".\n", "．"].iter().find_map(|mark| rest.strip_prefix(mark));
        text = marked.map_or(text, str::trim);
    }
    let text = text.trim_start_matches(['-', '*', '•']).trim();
    if text.chars().any(char::is_alphanumeric) {
        found.push(text);
    }
}

/// `text` without the blanks of de-identification (`___`, `XXXX`, `[** … **]`, `[REDACTED]`), and without the white space
/// and brackets that are then left over.
pub fn without_blanks(text: &str) -> Cow<'_, str> {
    if !text.contains("__")
        && !text.contains("XXX")
        && !text.contains("xxx")
        && !text.contains('[')
        && !text.contains("<unk>")
    {
        return text.into();
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while !rest.is_empty() {
        let after_word = kept.chars().next_back().is_some_and(char::is_alphanumeric);
        match blank(rest, after_word) {
            Some(len) => {
                changed = true;
                rest = &rest[len..];
                while kept.ends_with(' ') {
                    kept.pop();
                }
                let next = rest.trim_start_matches(' ');
                // Empty brackets go too.
                if kept.ends_with(['(', '（']) && next.starts_with([')', '）']) {
                    kept.truncate(kept.trim_end_matches(['(', '（']).trim_end_matches(' ').len());
                    rest = &next[next.chars().next().map_or(0, char::len_utf8)..];
                } else if let Some(mark) = next.chars().next().filter(|c| MARKS.contains(c)) {
                    rest = next;
                    // Of two marks that now meet, the one that ends more stays.
                    if kept.is_empty() || kept.ends_with(['.', '。']) && mark != ')' && mark != '）' {
                        rest = next[mark.len_utf8()..].trim_start_matches(' ');
                    } else if kept.ends_with([',', ';', '，', '；']) {
                        kept.pop();
                    }
                } else if kept.is_empty() || kept.ends_with(['\n', '(']) {
                    rest = next;
                } else if !next.is_empty() && !next.starts_with('\n') {
                    rest = next;
                    if text.is_ascii() || kept.ends_with(|c: char| c.is_ascii()) {
                        kept.push(' ');
                    }
                }
            }
            None => {
                let c = rest.chars().next().unwrap_or_default();
                kept.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    if changed { kept.trim().to_string().into() } else { text.into() }
}

/// Marks that move up to the word before.
const MARKS: [char; 9] = ['.', ',', ';', ':', ')', '。', '，', '；', '）'];

/// Length of the blank that `text` begins with.
fn blank(text: &str, after_word: bool) -> Option<usize> {
    let run = |c: char| text.len() - text.trim_start_matches(c).len();
    let next_is_word = |len: usize| text[len..].chars().next().is_some_and(char::is_alphanumeric);
    match text.chars().next()? {
        '_' if run('_') >= 2 => Some(run('_')),
        // Not the end of a word, and more than a chromosome.
        c @ ('X' | 'x') if !after_word && run(c) >= 3 && !next_is_word(run(c)) => Some(run(c)),
        '<' if text.starts_with("<unk>") => Some(5),
        '[' => {
            let end = text.char_indices().take(80).find(|&(_, c)| c == ']' || c == '\n').filter(|&(_, c)| c == ']')?.0;
            let inside = &text[1..end];
            let marked = inside.starts_with("**")
                || (inside.len() > 3 && inside.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c == ' '));
            marked.then_some(end + 1)
        }
        _ => None,
    }
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
        let report = "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___F \
                      with cough // pneumonia?\n \n COMPARISON:  ___\n \n FINDINGS: \n \n LUNGS: Clear.\n HEART: Normal.\n \n \
                      IMPRESSION: \n \n No acute process.\n";
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
    fn sentences_of_both_languages() {
        let english = "1. Nodule of 1.5 cm. in the left lobe, seen by Dr. X. Unchanged vs. prior? 2. No effusion.\n- Heart normal";
        assert_eq!(
            sentences(english),
            ["Nodule of 1.5 cm. in the left lobe, seen by Dr. X. Unchanged vs. prior?", "No effusion.", "Heart normal"]
        );
        assert_eq!(sentences("1、右下肺斑片影。2、心影不大；未见积液"), ["右下肺斑片影。", "心影不大；", "未见积液"]);
        assert_eq!(sentences("Width 3 cm. The rest is normal."), ["Width 3 cm.", "The rest is normal."]);
        assert!(sentences(" . \n").is_empty());
    }

    #[test]
    fn blanks_go_without_a_trace() {
        for (text, wanted) in [
            ("compared to ___ .", "compared to."),
            ("___ year old with XXXX pain", "year old with pain"),
            ("from [**2019-01-02**], unchanged", "from, unchanged"),
            ("Dr. ___ (___) was told.", "Dr. was told."),
            ("XXXX, no change. XXXX.", "no change."),
            ("seen by [NAME] today", "seen by today"),
            ("与____片比较", "与片比较"),
            ("a plain text [see note] XX", "a plain text [see note] XX"),
            ("foxxx", "foxxx"),
        ] {
            assert_eq!(without_blanks(text), wanted, "{text:?}");
        }
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
