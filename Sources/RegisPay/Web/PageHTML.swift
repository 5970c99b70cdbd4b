extension Page {
  static let html = """
    <!doctype html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>RegisPay</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/assets/page.css">
    <script src="/assets/page.js" defer></script>
    </head>
    <body>
    <header>
      <h1>RegisPay</h1>
      <p id="live" role="status" data-state="connecting">connecting</p>
    </header>
    <main>
      <section id="key-section" aria-labelledby="key-title" hidden>
        <h2 id="key-title">This server asks for a key</h2>
        <form id="key-form">
          <div class="field">
            <label for="key">API key, kept until this tab is closed</label>
            <input id="key" type="password" autocomplete="off" required>
          </div>
          <button type="submit">Use the key</button>
        </form>
      </section>
      <section aria-labelledby="create-title">
        <h2 id="create-title">New payment</h2>
        <form id="create" novalidate>
          <div class="field">
            <label for="amount">Amount</label>
            <input id="amount" name="amount" inputmode="decimal" autocomplete="off" placeholder="12.34"
              aria-describedby="amount-error">
            <p class="error" id="amount-error"></p>
          </div>
          <div class="field">
            <label for="currency">Currency</label>
            <select id="currency" name="currency" aria-describedby="currency-error">
              <option>GBP</option><option>EUR</option><option>USD</option>
            </select>
            <p class="error" id="currency-error"></p>
          </div>
          <button type="submit">Create payment</button>
          <p id="result" role="status"></p>
        </form>
      </section>
      <section aria-labelledby="list-title">
        <h2 id="list-title">Payments</h2>
        <div class="scroll" tabindex="0" role="region" aria-labelledby="list-title">
          <table>
            <thead>
              <tr><th scope="col">Payment</th><th scope="col" class="amount">Amount</th>
              <th scope="col">State</th><th scope="col">Created</th><th scope="col">
              <span class="unseen">Events</span></th></tr>
            </thead>
            <tbody id="payments"></tbody>
          </table>
          <p id="empty" hidden>No payments yet. Create one above and watch it go through.</p>
        </div>
      </section>
      <noscript><p>This page needs JavaScript. The same is at <a href="/api/v1/payments">/api/v1/payments</a>.</p></noscript>
    </main>
    </body>
    </html>

    """
}
