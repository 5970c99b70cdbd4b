/// The report: one HTML file that needs nothing else, and is well-formed as XML too.
struct Document {
  var title: String
  var verdicts: [Verdict]
  var warnings: [String]
  /// In order, each under a heading of its own.
  var sections: [(heading: String, body: HTML)]
  var machine: Machine
  /// Systems and how they were set.
  var settings: [(system: String, text: String)]
  /// How it was measured, one paragraph each.
  var method: [String]

  var source: String {
    let body: HTML = """
      <h1>\(title)</h1>
      \(notes)
      \(bars)
      \(HTML(sections.map { "<section><h2>\($0.heading)</h2>\n\($0.body)</section>" }))
      <section><h2>The machine</h2>
      \(HTML.table(["", ""], machine.facts.map { ["\($0.name)", "\($0.value)"] }, ofWords: true))</section>
      \(systems)
      <section><h2>How it was measured</h2>
      \(HTML(method.map { "<p>\($0)</p>" }))</section>
      """
    let document: HTML = """
      <!DOCTYPE html>
      <html lang="en"><head><meta charset="utf-8"/>
      <meta name="viewport" content="width=device-width, initial-scale=1"/>
      <title>\(title)</title>
      <style>\(HTML(stringLiteral: Style.sheet))</style></head>
      <body><main>
      \(body)
      </main></body></html>

      """
    return document.source
  }

  private var notes: HTML {
    if warnings.isEmpty { return "<p class=\"quiet\">The machine did nothing else while this was measured.</p>" }
    return """
      <div class="warning"><strong>Read these numbers with care.</strong>
      <ul>\(HTML(warnings.map { "<li>\($0)</li>" }))</ul></div>
      """
  }

  private var bars: HTML {
    guard !verdicts.isEmpty else { return "" }
    let rows: [[HTML]] = verdicts.map { verdict in
      let kind = verdict.isReached.map { $0 ? "good" : "bad" } ?? "open"
      return [
        "\(verdict.workload)", "\(verdict.bar)", "\(verdict.value)",
        "<span class=\"\(kind)\">\(verdict.reached)</span>",
      ]
    }
    return """
      <section><h2>What LogStore has to reach</h2>
      \(HTML.table(["work", "bar", "measured", ""], rows, ofWords: true))</section>
      """
  }

  private var systems: HTML {
    guard !settings.isEmpty else { return "" }
    return """
      <section><h2>The systems</h2>
      <dl>\(HTML(settings.map { "<dt>\($0.system)</dt><dd>\($0.text)</dd>" }))</dl></section>
      """
  }
}

/// Colours and shapes, light and dark.
private enum Style {
  static let sheet = """
    :root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1b1f24;--soft:#59626e;--rule:#d5dae1;
    --logstore:#1f6feb;--limit:#7d8692;--sqlite:#0f8a7e;--lmdb:#b3590c;--rocksdb:#8a3fc7;--alarm:#c62834;
    --good:#11713a;--bad:#b3202c;--caution:#fff3d6;--caution-rule:#d9a520}
    @media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1c2127;--ink:#e7eaee;--soft:#a3adb9;--rule:#38404a;
    --logstore:#6cabff;--limit:#8d97a3;--sqlite:#3fc7b8;--lmdb:#f2a35a;--rocksdb:#c795f5;--alarm:#ff7b84;
    --good:#5fd38d;--bad:#ff8a90;--caution:#3a3115;--caution-rule:#a8842a}}
    *{box-sizing:border-box}
    body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
    main{max-width:80rem;margin:0 auto;padding:1.5rem 1rem 4rem}
    h1{font-size:1.7rem;line-height:1.25;margin:0 0 .5rem}
    h2{font-size:1.2rem;margin:2.5rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--rule)}
    h3{font-size:1rem;margin:1.25rem 0 .5rem}
    p{max-width:46rem}
    .quiet{color:var(--soft)}
    .warning{background:var(--caution);border-left:4px solid var(--caution-rule);padding:.75rem 1rem;border-radius:4px}
    .warning ul{margin:.25rem 0 0;padding-left:1.25rem}
    .charts{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr))}
    figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.75rem}
    figcaption{font-weight:600;font-size:.9rem;margin-bottom:.25rem}
    svg{display:block;width:100%;height:auto}
    svg text{font:14px system-ui,sans-serif;fill:var(--ink)}
    svg .name{text-anchor:end}
    svg .value{font-weight:600}
    svg .tick{fill:var(--soft);font-size:13px;text-anchor:middle}
    svg .marked{fill:var(--alarm);font-size:13px;text-anchor:middle}
    svg .start{text-anchor:start}
    svg .end{text-anchor:end}
    .grid{stroke:var(--rule);fill:none}
    .mark{stroke:var(--alarm);stroke-dasharray:5 3;stroke-width:1.5;fill:none}
    .whisker{stroke:var(--ink);stroke-width:1.5;fill:none}
    .line{fill:none;stroke-width:2;stroke:var(--c)}
    .thin{stroke-width:1.5}
    .thick{stroke-width:4}
    .fill{fill:var(--c)}
    .ring{fill:var(--card);stroke:var(--c);stroke-width:2}
    .logstore{--c:var(--logstore)}.limit{--c:var(--limit)}.sqlite{--c:var(--sqlite)}.lmdb{--c:var(--lmdb)}
    .rocksdb{--c:var(--rocksdb)}.alarm{--c:var(--alarm)}
    .wide{overflow-x:auto;margin:1rem 0}
    table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
    th,td{padding:.35rem .7rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
    td{white-space:nowrap}
    th{font-weight:600}
    thead th{color:var(--soft)}
    th:first-child{text-align:left;padding-left:0}
    .words td,.words th{text-align:left}
    .words td{white-space:normal;min-width:6rem;overflow-wrap:anywhere}
    .good{color:var(--good);font-weight:600}
    .bad{color:var(--bad);font-weight:600}
    .open{color:var(--soft)}
    dt{font-weight:600;margin-top:.6rem}
    dd{margin:0;color:var(--soft);max-width:60rem}
    """
}
