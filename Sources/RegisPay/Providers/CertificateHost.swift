/// Whether a certificate is for a host, by the rules of RFC 9525, 6.3.
enum CertificateHost {
  /// - Parameters:
  ///   - name: of a `dNSName` in the certificate; from a peer, so possibly anything. A wildcard is the whole first label, and stands for
  ///     one label in front of at least two.
  ///   - host: a name, in ASCII.
  static func isName(_ name: some Sequence<UInt8>, for host: String) -> Bool {
    let name = labels(name)
    let host = labels(host.utf8)
    guard let first = name.first, name.count == host.count, !host.contains(where: \.isEmpty) else { return false }
    let rest = name.dropFirst()
    guard !rest.contains(where: { $0.contains(UInt8(ascii: "*")) }), rest.elementsEqual(host.dropFirst()) else {
      return false
    }
    if first.elementsEqual("*".utf8) { return rest.count >= 2 }
    return !first.contains(UInt8(ascii: "*")) && first == host[0]
  }

  /// In lower case, and without a dot at the end.
  private static func labels(_ text: some Sequence<UInt8>) -> [[UInt8]] {
    var labels = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).map { label in
      label.map { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0 }
    }
    if labels.count > 1, labels.last?.isEmpty ?? false { labels.removeLast() }
    return labels
  }
}
