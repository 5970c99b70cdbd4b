/// Calls the payment service provider (PSP) over HTTP: creates, settles, cancels and refunds payments.
public struct PSPClient: StepProvider {
  private let client: ProviderClient

  /// - Parameters:
  ///   - baseURL: what `/api/payments/…` is appended to, such as `http://127.0.0.1:8080/psp`.
  ///   - timeLimit: for one try.
  ///   - authorization: the value of that field; nil to send none.
  public init(baseURL: String, timeLimit: Duration, authorization: String? = nil) throws(EndpointError) {
    client = try ProviderClient(baseURL, timeLimit: timeLimit, authorization: authorization, sockets: .psp)
  }

  /// Closes the connections, once no call is made any more.
  func close() { client.close() }

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
      await client.post(
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
    let result = await post("settle", of: reference, key: idempotencyKey(payment.id, PaymentWork(.settle)))
    switch Verdict(result, from: "the PSP") {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordSettled)
    }
  }

  private func cancel(_ payment: Payment, _ reference: String) async -> CallOutcome {
    let result = await post("cancel", of: reference, key: idempotencyKey(payment.id, PaymentWork(.cancel)))
    // The PSP does not support cancellation, or its gateway is misconfigured for a while: a retry tells which.
    if case .success(let response) = result, response.status == 501, !response.isToRepeat {
      return .retry(CallRetry(.misconfigured, reason: "the PSP can't cancel: it returned 501"))
    }
    switch Verdict(result, from: "the PSP") {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordCancelled)
    }
  }

  private func refund(_ payment: Payment, _ reference: String, _ work: PaymentWork) async -> CallOutcome {
    guard let number = work.refund, let refund = payment.refund(number) else {
      return .impossible(reason: "there is no \(work)")
    }
    let result = await post(
      "refunds", of: reference, key: idempotencyKey(payment.id, work),
      [
        "amount": .number(refund.amount.decimal), "currency": .string(refund.amount.currency.code),
      ])
    switch Verdict(result, from: "the PSP") {
    case .outcome(let outcome): return outcome
    case .accepted: return .done(.recordRefunded(number))
    }
  }

  private func post(
    _ action: String, of reference: String, key: String, _ body: JSONValue = [:]
  ) async -> Result<ClientResponse, CallFailure> {
    await client.post("/api/payments/\(percentEncoded(reference))/\(action)", key: key, body)
  }
}

/// Calls the notification service over HTTP, which tells the customer that the payment went through.
public struct NotificationClient: StepProvider {
  private let client: ProviderClient

  /// - Parameters:
  ///   - baseURL: what `/api/send` is appended to, such as `http://127.0.0.1:8080/notifications`.
  ///   - timeLimit: for one try.
  ///   - authorization: the value of that field; nil to send none.
  public init(baseURL: String, timeLimit: Duration, authorization: String? = nil) throws(EndpointError) {
    client = try ProviderClient(baseURL, timeLimit: timeLimit, authorization: authorization, sockets: .notifications)
  }

  /// Closes the connections, once no call is made any more.
  func close() { client.close() }

  public func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    // The message is about the settlement, whatever has happened since: under one key every try sends the same body.
    let message: JSONValue = [
      "paymentId": .string(payment.id.description), "amount": .number(payment.money.decimal),
      "currency": .string(payment.money.currency.code), "status": .string(PaymentStatus.settled.rawValue),
    ]
    let verdict = Verdict(
      await client.post(
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

/// Encodes text for one segment of a path: everything except RFC 3986's unreserved characters (without the dot) as `%XX`, so
/// that no reference leads to another route.
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
