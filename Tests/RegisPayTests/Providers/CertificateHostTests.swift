import Testing

@testable import RegisPay

@Suite("The name in a certificate")
struct CertificateHostTests {
  @Test(
    "is the host's",
    arguments: [
      ("psp.example", "psp.example"), ("PSP.Example", "psp.example"), ("psp.example.", "psp.example"),
      ("psp.example", "PSP.example."), ("localhost", "localhost"), ("*.psp.example", "eu.psp.example"),
      ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ])
  func same(_ name: String, _ host: String) { #expect(CertificateHost.isName(name.utf8, for: host)) }

  @Test(
    "is another's",
    arguments: [
      ("", ""), ("", "psp.example"), ("*", "localhost"), ("*.example", "psp.example"), ("*.psp.example", "psp.example"),
      ("*.psp.example", "a.eu.psp.example"), ("e*.psp.example", "eu.psp.example"), ("eu.*.example", "eu.psp.example"),
      ("*.*.example", "eu.psp.example"), ("psp.example.evil", "psp.example"), ("evil.psp.example", "psp.example"),
      ("psp.example\0.evil", "psp.example"), ("psp.example\0", "psp.example"), (".psp.example", "psp.example"),
      ("*..example", "a..example"), ("127.0.0.1", "psp.example"), ("psp.exämple", "psp.example"),
    ])
  func other(_ name: String, _ host: String) { #expect(!CertificateHost.isName(name.utf8, for: host)) }
}
