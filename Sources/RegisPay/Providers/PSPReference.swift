/// The PSP's id of a payment: whatever text it likes, as long as it is short. It stands in paths, events and lists.
enum PSPReference {
  /// Bytes of UTF-8; a provider's id is far shorter. Bytes, since a text of few characters can have many.
  static let byteLimit = 200

  /// Whether it can be used. The PSP and a person who resolves a creation are held to the same rule.
  static func isUsable(_ text: String) -> Bool { (1...byteLimit).contains(text.utf8.count) }
}
