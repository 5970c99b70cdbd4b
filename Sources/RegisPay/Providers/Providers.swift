/// The payment service provider: creates and settles payments by HTTP.
public struct PSPClient: StepProvider {
  private let caller: ProviderClient

  /// - Parameters:
  ///   - baseURL: what `/api/payments/…` is appended to, such as `http://127.0.0.1:8080/psp`.
  ///   - timeLimit: for one try.
  ///   - authorization: the value of that field; nil to send none.
  public init(baseURL: String, timeLimit: Duration, authorization: String? = nil) throws(EndpointError) {
    caller = try ProviderClient(baseURL, timeLimit: timeLimit, authorization: authorization)
  }

  /// Closes the connections, once no call is made any more.
  func close() { caller.close() }

  public func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    if work.step == .create { return await create(payment) }
    guard let reference = payment.reference else {
      return .impossible(reason: "the PSP has given the payment no reference")
    }
    switch work.step {
    case .settle: return await settle(payment, reference)
    case .cancel: return await cancel(payment, reference)
    case .refund: return await refund(payment, reference, work)
    case .create, .notify: return .impossible(reason: "the PSP has no part in step \(work)")
    }
  }

  private func create(_ payment: Payment) async -> CallOutcome {
    let verdict = Verdict(
      await caller.post(
        "/api/payments/create", key: idempotencyKey(payment.id, PaymentWork(.create)),
        ["amount": .number(payment.money.decimal), "currency": .string(payment.money.currency.code)]),
      from: "the PSP")
    switch verdict {
    case .outcome(let outcome): return outcome
    case .accepted(let body):
      guard let reference = (try? JSONReader.read(body))?["paymentId"]?.text, PSPReference.isUsable(reference)
      else { return .unreadable(reason: "the PSP accepted the payment without a readable paymentId") }
      return .done(.recordCreated(reference: reference))
    }
  }

  private func settle(_ payment: Payment, _ reference: String) async -> CallOutcome {
    let answer = await post("settle", of: reference, key: idempotencyKey(payment.id, PaymentWork(.settle)))
    switch Verdict(answer, from: "the PSP") {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordSettled)
    }
  }

  private func cancel(_ payment: Payment, _ reference: String) async -> CallOutcome {
    let answer = await post("cancel", of: reference, key: idempotencyKey(payment.id, PaymentWork(.cancel)))
    // A PSP that knows no such call can't cancel. Or its gateway is misconfigured for a while: told by asking again.
    if case .success(let answer) = answer, answer.status == 501, !answer.isOfRepeat {
      return .retry(CallRetry(.misconfigured, reason: "the PSP can't cancel: it answered 501"))
    }
    switch Verdict(answer, from: "the PSP") {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordCancelled)
    }
  }

  private func refund(_ payment: Payment, _ reference: String, _ work: PaymentWork) async -> CallOutcome {
    guard let number = work.refund, let refund = payment.refund(number) else {
      return .impossible(reason: "there is no \(work)")
    }
    let answer = await post(
      "refunds", of: reference, key: idempotencyKey(payment.id, work),
      [
        "amount": .number(refund.amount.decimal), "currency": .string(refund.amount.currency.code),
      ])
    switch Verdict(answer, from: "the PSP") {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordRefunded(number))
    }
  }

  private func post(
    _ action: String, of reference: String, key: String, _ body: JSONValue = [:]
  ) async -> Result<HTTPAnswer, CallFailure> {
    await caller.post("/api/payments/\(percentEncoded(reference))/\(action)", key: key, body)
  }
}

/// Tells the customer, by HTTP, that the payment went through.
public struct NotificationClient: StepProvider {
  private let caller: ProviderClient

  /// - Parameters:
  ///   - baseURL: what `/api/send` is appended to, such as `http://127.0.0.1:8080/notifications`.
  ///   - timeLimit: for one try.
  ///   - authorization: the value of that field; nil to send none.
  public init(baseURL: String, timeLimit: Duration, authorization: String? = nil) throws(EndpointError) {
    caller = try ProviderClient(baseURL, timeLimit: timeLimit, authorization: authorization)
  }

  /// Closes the connections, once no call is made any more.
  func close() { caller.close() }

  public func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    // What is told is the settlement, whatever has come after it: under one key every try says the same.
    let message: JSONValue = [
      "paymentId": .string(payment.id.description), "amount": .number(payment.money.decimal),
      "currency": .string(payment.money.currency.code), "status": .string(PaymentStatus.settled.rawValue),
    ]
    let verdict = Verdict(
      await caller.post(
        "/api/send", key: idempotencyKey(payment.id, work),
        [
          "id": .string(payment.id.description),
          "jsonPayload": .string(String(decoding: message.bytes, as: UTF8.self)),
        ]), from: "the notification service")
    switch verdict {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordCompleted)
    }
  }
}

/// Text for one segment of a path: all but RFC 3986's unreserved characters as `%XX`, so that no reference can lead to
/// another route.
func percentEncoded(_ text: String) -> String {
  var encoded = ""
  for byte in text.utf8 {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "~"):
      encoded.unicodeScalars.append(Unicode.Scalar(byte))
    default:
      let digits = String(byte, radix: 16, uppercase: true)
      encoded += digits.count == 1 ? "%0\(digits)" : "%\(digits)"
    }
  }
  return encoded
}
