/// What the status of an answer proves about the call. Pure, the same for all steps; docs/PROVIDERS.md has the table with
/// the reason for each status.
///
/// A certain no frees money: a payment is declined, a refund's amount may be asked for again. So only a closed list of
/// statuses is one. Everything else may be the answer to a call that was carried out: a proxy that stopped waiting (499,
/// 460, 444), a dependency that failed half-way (424), a status that nobody has assigned.
enum StatusMeaning: Sendable, Hashable, CaseIterable {
  /// Carried out, or accepted to be.
  case accepted
  /// Processed, and the answer is no. Decides also after a try whose outcome is unknown.
  case declined
  /// Not carried out, and the reason is the payment: a no.
  case refused
  /// Not carried out: the caller is not known, or not allowed to.
  case credentials
  /// Not carried out: the address or the form of the call is wrong.
  case misconfigured
  /// Not carried out: too many calls.
  case busy
  /// Another call with the key, or about the payment, is being carried out; it may be an earlier one of ours.
  case inProgress
  /// The other side failed, perhaps after it had carried the call out.
  case serverError
  /// A 4xx that doesn't say whether the call was carried out.
  case unclear
  /// No answer to a call at all: redirects are not followed, and the rest has no meaning.
  case meaningless

  init(_ status: Int) {
    self =
      switch status {
      case 200..<300: .accepted
      case 402: .declined
      case 400, 410, 422: .refused
      case 401, 403: .credentials
      case 404, 405, 413, 414, 415: .misconfigured
      case 429: .busy
      case 409, 423, 425: .inProgress
      case 408, 500..<600: .serverError
      case 400..<500: .unclear
      default: .meaningless
      }
  }

  /// The first answer of this meaning ends the step.
  var isFinalNo: Bool { self == .declined || self == .refused }
}
