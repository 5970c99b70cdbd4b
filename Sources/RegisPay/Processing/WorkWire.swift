/// What server and worker say to each other, as JSON. Both sides are of one version; what can't be read is refused.
enum WorkWire {
  /// For a text that a worker reports.
  private static let reasonLimit = 500

  // MARK: - Server to worker

  static func json(_ answer: WorkAnswer) -> JSONValue {
    switch answer {
    case .acknowledge: ["next": "acknowledge"]
    case .wait(let duration): ["next": "wait", "milliseconds": milliseconds(duration)]
    case .giveBack(let duration): ["next": "give-back", "milliseconds": milliseconds(duration)]
    case .call(let order): ["next": "call", "call": json(order)]
    }
  }

  private static func json(_ order: WorkOrder) -> JSONValue {
    let payment = order.payment
    var members: [JSONValue.Member] = [
      .init("token", .string(order.token)), .init("paymentId", .string(payment.id.description)),
      .init("step", .string(order.work.step.rawValue)), .init("amount", .string(payment.money.decimal)),
      .init("currency", .string(payment.money.currency.code)), .init("milliseconds", milliseconds(order.timeLimit)),
    ]
    if let reference = payment.reference { members.append(.init("reference", .string(reference))) }
    if let number = order.work.refund, let refund = payment.refund(number) {
      members.append(
        .init("refund", ["number": .integer(number), "amount": .string(refund.amount.decimal)]))
    }
    if let trace = order.trace {
      members.append(.init("traceparent", .string(trace.parent.field)))
      if let state = trace.state { members.append(.init("tracestate", .string(state))) }
    }
    return .object(members)
  }

  /// Nil for what a server of this version doesn't say.
  static func answer(_ json: JSONValue) -> WorkAnswer? {
    switch json["next"]?.text {
    case "acknowledge": .acknowledge
    case "wait": duration(json["milliseconds"]).map { .wait($0) }
    case "give-back": duration(json["milliseconds"]).map { .giveBack($0) }
    case "call": json["call"].flatMap(order).map { .call($0) }
    default: nil
    }
  }

  private static func order(_ json: JSONValue) -> WorkOrder? {
    guard let token = json["token"]?.text, let id = json["paymentId"]?.text.flatMap({ PaymentID($0) }),
      let step = json["step"]?.text.flatMap({ PaymentStep(rawValue: $0) }),
      let currency = json["currency"]?.text.flatMap({ Currency.named($0) }),
      let money = money(json["amount"], currency), let limit = duration(json["milliseconds"])
    else { return nil }
    var refund: Refund?
    if let found = json["refund"] {
      guard let number = found["number"]?.unsigned, (1...UInt64(Payment.refundRequestLimit)).contains(number),
        let amount = self.money(found["amount"], currency)
      else { return nil }
      refund = Refund(number: Int(number), amount: amount, status: .requested)
    }
    guard let work = PaymentWork(step, refund: refund?.number) else { return nil }
    let trace = json["traceparent"]?.text.flatMap { TraceParent($0) }
    return WorkOrder(
      token: token, work: work,
      payment: Payment(forCallOf: id, money, reference: json["reference"]?.text, refund: refund),
      trace: trace.map { TraceContext(parent: $0, state: json["tracestate"]?.text) }, timeLimit: limit)
  }

  private static func money(_ json: JSONValue?, _ currency: Currency) -> Money? {
    guard let number = json?.text.flatMap({ DecimalText($0) }) else { return nil }
    // Only an amount that the currency can't have throws.
    return try? Money(number, currency: currency)
  }

  private static func milliseconds(_ duration: Duration) -> JSONValue {
    .integer(Int64(min(max(duration / .milliseconds(1), 0).rounded(.up), 86_400_000)))
  }

  private static func duration(_ json: JSONValue?) -> Duration? {
    guard let milliseconds = json?.unsigned, milliseconds <= 86_400_000 else { return nil }
    return .milliseconds(Int64(milliseconds))
  }

  // MARK: - Worker to server

  /// The members of a report beside the token.
  static func members(_ outcome: CallOutcome) -> [JSONValue.Member] {
    func members(_ kind: String, _ reason: String) -> [JSONValue.Member] {
      [.init("outcome", .string(kind)), .init("reason", .string(String(reason.prefix(reasonLimit))))]
    }
    switch outcome {
    case .done(.recordCreated(let reference)):
      return [.init("outcome", "accepted"), .init("reference", .string(reference))]
    case .done: return [.init("outcome", "accepted")]
    case .declined(let reason): return members("declined", reason)
    case .refused(let status, let reason): return members("refused", reason) + [.init("status", .integer(status))]
    case .impossible(let reason): return members("impossible", reason)
    case .unreadable(let reason): return members("unreadable", reason)
    case .retry(let failure):
      var found = members("retry", failure.reason)
      found.append(.init("cause", .string(name(of: failure.cause))))
      if let after = failure.after { found.append(.init("afterMilliseconds", milliseconds(after))) }
      if failure.isUnconfirmed { found.append(.init("unconfirmed", true)) }
      return found
    }
  }

  /// What a worker reports of a call.
  ///
  /// - Parameter work: that the call was for; the report can't be about another.
  /// - Returns: nil for what no worker of this version says.
  static func outcome(_ json: JSONValue, of work: PaymentWork) -> CallOutcome? {
    let reason = (json["reason"]?.text ?? "").inOneLine.withoutKeys
    let text = reason.isEmpty ? "the worker gave no reason" : String(reason.prefix(reasonLimit))
    switch json["outcome"]?.text {
    case "accepted": return accepted(json["reference"]?.text, work).map { .done($0) }
    case "declined": return .declined(reason: text)
    case "refused":
      guard let status = json["status"]?.unsigned, (100...999).contains(status) else { return nil }
      return .refused(status: Int(status), reason: text)
    case "impossible": return .impossible(reason: text)
    case "unreadable": return .unreadable(reason: text)
    case "retry":
      guard let cause = CallRetry.Cause.allCases.first(where: { name(of: $0) == json["cause"]?.text }) else {
        return nil
      }
      var failure = CallRetry(cause, reason: text)
      if let after = json["afterMilliseconds"] {
        guard let duration = duration(after) else { return nil }
        failure.after = min(duration, ProviderClient.retryAfterLimit)
      }
      failure.isUnconfirmed = json["unconfirmed"] == .bool(true)
      return .retry(failure)
    default: return nil
    }
  }

  private static func accepted(_ reference: String?, _ work: PaymentWork) -> PaymentCommand? {
    switch work.step {
    case .create: reference.flatMap { PSPReference.isUsable($0) ? .recordCreated(reference: $0) : nil }
    case .settle: .recordSettled
    case .cancel: .recordCancelled
    case .notify: .recordCompleted
    case .refund: work.refund.map { .recordRefunded($0) }
    }
  }

  private static func name(of cause: CallRetry.Cause) -> String {
    StepMetrics.CallResult(.retry(CallRetry(cause, reason: ""))).rawValue
  }
}
