extension Page {
  static let style = """
    :root {
      color-scheme: light dark;
      --ground: #f6f7f9; --panel: #ffffff; --ink: #1b2330; --soft: #566175; --line: #dfe3ea;
      --accent: #2456c7; --accent-ink: #ffffff; --bad: #b3261e;
      --wait: #8a5a00; --move: #2456c7; --done: #1a7343;
    }
    @media (prefers-color-scheme: dark) {
      :root {
        --ground: #12161d; --panel: #1a202a; --ink: #e6eaf1; --soft: #9aa6b8; --line: #2c3542;
        --accent: #86adff; --accent-ink: #0d1626; --bad: #ff9a92;
        --wait: #f0bc5e; --move: #86adff; --done: #6fd49c;
      }
    }
    * { box-sizing: border-box; }
    body {
      margin: 0; background: var(--ground); color: var(--ink);
      font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
    }
    header, main { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
    header { display: flex; align-items: center; justify-content: space-between; padding-top: 1.5rem; }
    h1 { font-size: 1.375rem; letter-spacing: -0.01em; margin: 0; }
    h2 { font-size: 1rem; margin: 0 0 0.75rem; }
    section {
      background: var(--panel); border: 1px solid var(--line); border-radius: 0.75rem;
      padding: 1.25rem; margin: 1.25rem 0;
    }
    form { display: flex; flex-wrap: wrap; gap: 0.75rem 1rem; align-items: flex-start; }
    .field { display: flex; flex-direction: column; }
    label { font-size: 0.875rem; color: var(--soft); margin-bottom: 0.25rem; }
    input, select, button {
      font: inherit; color: inherit; height: 2.5rem; padding: 0 0.75rem;
      border: 1px solid var(--line); border-radius: 0.5rem; background: var(--ground);
    }
    input { width: 11rem; }
    input[aria-invalid="true"], select[aria-invalid="true"] { border-color: var(--bad); }
    button { background: var(--accent); color: var(--accent-ink); border-color: transparent; cursor: pointer; }
    form button { margin-top: 1.6rem; font-weight: 600; }
    button.quiet {
      background: none; color: var(--accent); border-color: var(--line); height: 2rem; font-size: 0.875rem;
    }
    :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    .error { color: var(--bad); font-size: 0.875rem; margin: 0.25rem 0 0; max-width: 22rem; }
    #result { flex-basis: 100%; margin: 0; min-height: 1.5rem; color: var(--soft); overflow-wrap: anywhere; }
    #live { margin: 0; font-size: 0.875rem; color: var(--soft); }
    #live::before {
      content: ""; display: inline-block; width: 0.6rem; height: 0.6rem; border-radius: 50%;
      margin-right: 0.5rem; background: var(--wait);
    }
    #live[data-state="live"]::before { background: var(--done); }
    .scroll { overflow-x: auto; }
    table { width: 100%; border-collapse: collapse; }
    th { text-align: left; font-size: 0.8125rem; font-weight: 600; color: var(--soft); }
    th, td { padding: 0.5rem 0.75rem 0.5rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
    tr:last-child td { border-bottom: 0; }
    .amount { text-align: right; font-variant-numeric: tabular-nums; padding-right: 1.5rem; }
    .id { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.875rem; }
    .state { color: var(--move); font-weight: 600; font-size: 0.875rem; transition: color 0.3s; }
    .state[data-state="Initiated"] { color: var(--wait); }
    .state[data-state="Completed"] { color: var(--done); }
    .state[data-state="Failed"], .state[data-state="OutcomeUnknown"] { color: var(--bad); }
    .note { display: block; font-weight: 400; font-size: 0.8125rem; color: var(--soft); white-space: normal; }
    td ol { margin: 0; padding-left: 1.25rem; }
    td pre { margin: 0.25rem 0 0.75rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8125rem; }
    #empty { color: var(--soft); }
    .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
    @media (prefers-reduced-motion: reduce) { * { transition: none !important; } }

    """
}
