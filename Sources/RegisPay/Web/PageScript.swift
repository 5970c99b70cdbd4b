extension Page {
  // Everything from the server is set as text, never as HTML. Amounts keep the digits they were sent with: they are
  // taken from the JSON text where the browser tells it, and never computed with.
  static let script = #"""
    "use strict";
    const shownLimit = 50;
    const rows = new Map();
    // Gone with the tab, and never sent anywhere else.
    const keyName = "regispay-key";
    const call = async (path, options = {}) => {
      const key = sessionStorage.getItem(keyName);
      const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
      const answer = await fetch(path, { ...options, headers });
      if (answer.status === 401) byId("key-section").hidden = false;
      return answer;
    };
    const byId = (id) => document.getElementById(id);
    const amounts = new Set(["amount", "refundedAmount", "refundingAmount"]);
    const parse = (text) => JSON.parse(text, (key, value, context) =>
      amounts.has(key) && typeof value === "number" ? context?.source ?? String(value) : value);

    const rawAmount = (key, value) => amounts.has(key) && JSON.rawJSON ? JSON.rawJSON(value) : value;

    function element(tag, properties, ...children) {
      const made = Object.assign(document.createElement(tag), properties);
      made.append(...children);
      return made;
    }

    function money(amount, currency) {
      try {
        return new Intl.NumberFormat(undefined, { style: "currency", currency }).format(amount);
      } catch {
        return `${amount} ${currency}`;
      }
    }

    function showState(row, status, note) {
      row.state.dataset.state = status;
      row.state.textContent = status;
      if (note) row.state.append(element("span", { className: "note" }, note));
    }

    function note(payment) {
      const notes = [(payment.unknown ?? payment.failure ?? payment.waiting)?.reason];
      if (payment.refundingAmount) notes.unshift(`${money(payment.refundingAmount, payment.currency)} goes back`);
      // Digits alone: no amount is computed with.
      if (/[1-9]/.test(payment.refundedAmount ?? "")) {
        notes.unshift(`${money(payment.refundedAmount, payment.currency)} refunded`);
      }
      return notes.filter(Boolean).join("; ");
    }

    function addRow(payment, atEnd) {
      if (rows.has(payment.paymentId)) return;
      const id = payment.paymentId;
      const state = element("td", { className: "state" });
      const more = element("button", { type: "button", className: "quiet" }, "Events");
      more.setAttribute("aria-expanded", "false");
      more.setAttribute("aria-label", `Events of payment ${id}`);
      const created = new Date(payment.createdAt);
      const line = element("tr", {},
        element("td", { className: "id", title: id }, id.slice(0, 13)),
        element("td", { className: "amount" }, money(payment.amount, payment.currency)),
        state,
        element("td", {}, element("time", { dateTime: payment.createdAt }, created.toLocaleTimeString())),
        element("td", {}, more));
      line.dataset.payment = id;
      const row = { line, state, more, detail: null };
      more.addEventListener("click", () => toggleEvents(id, row));
      rows.set(id, row);
      showState(row, payment.status, note(payment));
      if (atEnd) byId("payments").append(line); else byId("payments").prepend(line);
      byId("empty").hidden = true;
      while (rows.size > shownLimit) {
        removeRow([...byId("payments").querySelectorAll("tr[data-payment]")].at(-1).dataset.payment);
      }
    }

    function removeRow(id) {
      const row = rows.get(id);
      row.line.remove();
      row.detail?.remove();
      rows.delete(id);
    }

    async function toggleEvents(id, row) {
      const open = row.detail === null;
      row.more.setAttribute("aria-expanded", String(open));
      if (!open) {
        row.detail.remove();
        row.detail = null;
        return;
      }
      const cell = element("td", { colSpan: 5 }, "Loading…");
      row.detail = element("tr", {}, cell);
      row.line.after(row.detail);
      await showEvents(id, cell);
    }

    async function showEvents(id, cell) {
      try {
        const answer = await call(`/api/v1/payments/${encodeURIComponent(id)}/events`);
        const list = element("ol", {});
        for (const event of parse(await answer.text()).events) {
          list.append(element("li", {}, `${event.type}, ${new Date(event.timestamp).toLocaleTimeString()}`,
            element("pre", {}, JSON.stringify(event.data, rawAmount, 2))));
        }
        cell.replaceChildren(list);
      } catch {
        cell.textContent = "The events can't be loaded now.";
      }
    }

    const states = { PaymentInitiated: "Initiated", PaymentCreated: "Created", PaymentSettled: "Settled",
      PaymentCompleted: "Completed", PaymentFailed: "Failed", PaymentDeclined: "Declined",
      PaymentCancelled: "Cancelled", PaymentCancellationRequested: "Cancelling",
      PaymentOutcomeUnknown: "OutcomeUnknown" };
    // After these the state depends on what was before: it is asked for.
    const unclear = new Set(["PaymentCancellationRefused", "PaymentRetried", "PaymentDelayed",
      "PaymentRefundRequested", "PaymentRefunded", "PaymentRefundDeclined", "PaymentRefundFailed", "PaymentOutcomeResolved"]);

    async function askState(id, row) {
      try {
        const payment = parse(await (await call(`/api/v1/payments/${encodeURIComponent(id)}`)).text());
        showState(row, payment.status, note(payment));
      } catch {
        showState(row, row.state.dataset.state, "the state can't be loaded now");
      }
    }

    function take(event) {
      const status = states[event.type];
      if (!event.stream.startsWith("pay:")) return;
      const id = event.stream.slice(4);
      if (unclear.has(event.type) && rows.has(id)) {
        const row = rows.get(id);
        askState(id, row);
        if (row.detail) showEvents(id, row.detail.firstChild);
      }
      if (!status) return;
      if (status === "Initiated") {
        addRow({ paymentId: id, amount: event.data.amount, currency: event.data.currency, status,
          createdAt: event.timestamp }, false);
      } else if (rows.has(id)) {
        const row = rows.get(id);
        showState(row, status, event.data?.reason);
        if (row.detail) showEvents(id, row.detail.firstChild);
      }
    }

    // Events are shown in bunches, so that a load of hundreds a second stays calm.
    let pending = [];
    function enqueue(event) {
      pending.push(event);
      if (pending.length > 1) return;
      setTimeout(() => {
        const events = pending;
        pending = [];
        events.forEach(take);
      }, 50);
    }

    function showLive(state) {
      byId("live").dataset.state = state;
      byId("live").textContent = state;
    }

    // Read with fetch, as an EventSource can send no key.
    async function follow(from) {
      const answer = await call(`/api/v1/events?from=${from}`);
      if (!answer.ok) throw new Error(answer.statusText);
      showLive("live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) if (line.startsWith("data: ")) enqueue(parse(line.slice(6)));
      }
    }

    async function start() {
      try {
        const answer = await call(`/api/v1/payments?limit=${shownLimit}`);
        if (answer.status === 401) return showLive("a key is needed");
        if (!answer.ok) throw new Error(answer.statusText);
        const page = parse(await answer.text());
        [...rows.keys()].forEach(removeRow);
        page.payments.forEach((payment) => addRow(payment, true));
        byId("empty").hidden = rows.size > 0;
        await follow(page.asOf);
        throw new Error("the stream ended");
      } catch {
        showLive("reconnecting");
        setTimeout(start, 1000);
      }
    }

    function showErrors(errors) {
      for (const field of ["amount", "currency"]) {
        const messages = errors[field] ?? [];
        byId(`${field}-error`).textContent = messages.join(". ");
        byId(field).setAttribute("aria-invalid", String(messages.length > 0));
      }
      const first = ["amount", "currency"].find((field) => errors[field]);
      if (first) byId(first).focus();
    }

    // What was asked for and has no answer yet: pressed again, the same is one payment, not two.
    let asked = null;
    function keyOf(body) {
      if (asked?.body !== body) {
        // randomUUID is for secure contexts only, and this page may come over plain HTTP.
        const bytes = crypto.getRandomValues(new Uint8Array(16));
        asked = { body, key: "page-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("") };
      }
      return asked.key;
    }

    async function create(submit) {
      submit.preventDefault();
      const amount = byId("amount").value.trim();
      const currency = JSON.stringify(byId("currency").value);
      // The digits go out as they were typed.
      const number = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?$/.test(amount) ? amount : amount ? JSON.stringify(amount) : "null";
      byId("result").textContent = "";
      try {
        const request = `{"amount":${number},"currency":${currency}}`;
        const answer = await call("/api/v1/payments", { method: "POST", body: request,
          headers: { "Content-Type": "application/json", "Idempotency-Key": keyOf(request) } });
        const body = parse(await answer.text());
        // After an error of the server it is not known whether it was taken.
        if (answer.status < 500) asked = null;
        showErrors(body.errors ?? {});
        if (answer.ok) {
          byId("result").textContent = `Payment ${body.paymentId} is on its way.`;
          byId("amount").value = "";
        } else if (!body.errors) {
          byId("result").textContent = body.detail ?? "The payment was not taken.";
        }
      } catch {
        byId("result").textContent =
          "The server did not answer, and the payment may have been taken. Try again: the same is not taken twice.";
      }
    }

    byId("key-form").addEventListener("submit", (submit) => {
      submit.preventDefault();
      sessionStorage.setItem(keyName, byId("key").value.trim());
      byId("key").value = "";
      byId("key-section").hidden = true;
      start();
    });
    byId("create").addEventListener("submit", create);
    start();

    """#
}
