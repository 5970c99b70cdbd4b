/// What the status of a response proves about the call. Pure, the same for all steps; docs/PROVIDERS.md has the table with the
/// reason for each status.
///
/// A certain refusal frees money: a payment is declined, or a refund's amount may be requested again. So only a closed list of
/// statuses counts as one. Any other status may follow a call that was carried out: a proxy that stopped waiting (499, 460,
/// 444), a dependency that failed half-way (424), an unassigned status.
enum StatusMeaning: Sendable, Hashable, CaseIterable {
  /// Carried out, or accepted to be.
  case accepted
  /// Processed and declined. Decides also after a try whose outcome is unknown.
  case declined
  /// Not carried out, and the payment is the reason: a refusal.
  case refused
  /// Not carried out: the caller is unknown or lacks rights.
  case credentials
  /// Not carried out: the address or the form of the call is wrong.
  case misconfigured
  /// Not carried out: too many calls.
  case busy
  /// Another call with the key, or about the payment, is in progress; it may be an earlier call of ours.
  case inProgress
  /// The other side failed, perhaps after it had carried out the call.
  case serverError
  /// A 4xx that doesn't say whether the call was carried out.
  case unclear
  /// Not a response to a call: redirects are not followed, and other numbers have no meaning in HTTP.
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

  /// Whether the status says that the call was not carried out. A stray response may say so of a call that was.
  var deniesEffect: Bool {
    switch self {
    case .declined, .refused, .credentials, .misconfigured, .busy: true
    case .accepted, .inProgress, .serverError, .unclear, .meaningless: false
    }
  }
}
