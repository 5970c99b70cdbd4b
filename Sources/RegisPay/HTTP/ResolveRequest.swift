import Hummingbird

/// The body of a request that resolves a step with an unknown outcome: `{"step": "settle", "outcome": "happened"}`. A refund also
/// needs its number, and a creation that happened needs the PSP's reference.
struct ResolveRequest: Sendable, Hashable {
  var work: PaymentWork
  var outcome: PaymentCommand.Resolution

  private static let members: Set<String> = ["step", "refund", "outcome", "reference"]

  /// - Throws: ``Problem`` that names the mistake.
  init(_ request: Request, _ bytes: [UInt8]) throws {
    do {
      try request.requireJSON()
      try self.init(try JSONReader.read(bytes))
    } catch let error as JSONError {
      throw ValidationError(error).problem
    } catch let error as ValidationError {
      throw error.problem
    }
  }

  init(_ body: JSONValue) throws(ValidationError) {
    guard case .object(let members) = body else { throw Self.failure("body", "The body must be a JSON object") }
    // A person's decision about money must not be read in part.
    for member in members where !Self.members.contains(member.key) {
      throw Self.failure(member.key, "There is no such member; step, refund, outcome and reference are possible")
    }
    work = try Self.work(body)
    let reference = try Self.reference(body)
    switch body["outcome"]?.text {
    case "happened":
      guard (work.step == .create) == (reference != nil) else {
        throw Self.failure(
          "reference",
          work.step == .create
            ? "A creation that happened needs the PSP's reference of the payment"
            : "Only a creation that happened has a reference")
      }
      outcome = .happened(reference: reference)
    case "did-not-happen":
      guard reference == nil else {
        throw Self.failure("reference", "Only a creation that happened has a reference")
      }
      outcome = .didNotHappen
    default: throw Self.failure("outcome", "Outcome must be happened or did-not-happen")
    }
  }

  private static func work(_ body: JSONValue) throws(ValidationError) -> PaymentWork {
    guard let step = (body["step"]?.text).flatMap(PaymentStep.init(rawValue:)) else {
      throw failure("step", "Step must be one of \(PaymentStep.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    var number: Int?
    if let value = body["refund"] {
      guard let refund = value.wholeNumber, refund > 0 else {
        throw failure("refund", "Refund must be the number of a refund, such as 1")
      }
      number = Int(refund)
    }
    guard let work = PaymentWork(step, refund: number) else {
      throw failure("refund", step == .refund ? "The refund's number is missing" : "Only step refund has a number")
    }
    return work
  }

  private static func reference(_ body: JSONValue) throws(ValidationError) -> String? {
    guard let value = body["reference"] else { return nil }
    guard let text = value.text, PSPReference.isUsable(text) else {
      throw failure("reference", "Reference must be a text of 1 to \(PSPReference.byteLimit) bytes of UTF-8")
    }
    return text
  }

  private static func failure(_ field: String, _ message: String) -> ValidationError {
    ValidationError(errors: [FieldError(field: field, messages: [message])])
  }
}
