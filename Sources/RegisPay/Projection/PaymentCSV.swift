/// Payments as lines of CSV by RFC 4180.
enum PaymentCSV {
  private static let columns = [
    "paymentId", "amount", "currency", "status", "refundedAmount", "refundingAmount", "paymentReference", "version",
    "createdAt",
    "updatedAt", "step", "reason",
  ]

  static let head = Array((columns.joined(separator: ",") + "\r\n").utf8)

  static func add(_ row: PaymentRow, to bytes: inout [UInt8]) {
    let fields = [
      row.id.description, row.money.decimal, row.money.currency.code, row.status.rawValue, row.refunded.decimal,
      row.refunding.decimal, text(row.reference ?? ""), String(row.version),
      timestamp(microseconds: row.createdMicroseconds), timestamp(microseconds: row.updatedMicroseconds),
      row.trouble?.step.rawValue ?? "", text(row.trouble?.reason ?? ""),
    ]
    bytes += fields.joined(separator: ",").utf8
    bytes += "\r\n".utf8
  }

  /// A field with text from outside, quoted. A spreadsheet takes a text that begins like a formula for one, and a PSP chooses its
  /// references: such a text gets an apostrophe in front (CWE-1236).
  private static func text(_ text: String) -> String {
    let isFormula = text.unicodeScalars.first.map { "=+-@\t\r\n".unicodeScalars.contains($0) } ?? false
    guard isFormula || text.utf8.contains(where: { ",\"\r\n".utf8.contains($0) }) else { return text }
    return "\"" + (isFormula ? "'" : "")
      + text.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
  }
}
