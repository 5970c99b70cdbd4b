/// The PSP's id of a payment: any short text. It appears in paths, events and lists.
enum PSPReference {
  /// Bytes of UTF-8; a provider's id is far shorter. Bytes, because a few characters can have many.
  static let byteLimit = 200

  /// Whether the text can be used. The same rule holds for the PSP and for a person who resolves a creation.
  static func isUsable(_ text: String) -> Bool { (1...byteLimit).contains(text.utf8.count) }
}
