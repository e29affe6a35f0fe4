"""Words near personal data that say what it is, or that it is something else."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PHONE = _words("""
tel phone phones cell mobile fax hotline voicemail portable cellulare celular whatsapp sms
""")
"""A telephone's name: just before, even bare digits are a number to call."""
CALL = _words("""
call called calling answer answering answers dialled dialed ring text reach contact dial bel ruf rufen rufe joindre
joignable
""")
"""Somebody is to be called: digits in groups are a number."""
OTHER_THAN_PHONE = _words("""
order orders pedido commande invoice factura facture ticket license licence account reference ref case
tracking parcel serial article purchase item sku isbn customer amount total part model booking transaction
policy version id code numéro
""")
"""Other numbers; only an international prefix or a telephone's name outweighs them."""
CITIZEN = _words("""
national identity identification citizen tax taxpayer social government resident
""")
"""What a state's number is called in English, whatever the country."""
OTHER_NUMBER = _words("""
order orders invoice tracking parcel serial reference ref ticket sku part item article model version isbn
booking commit build hash bestellung bestellnummer auftrag auftragsnummer rechnung rechnungsnummer pedido
factura commande facture license licence case transaction sendungsnummer shipment
""")
"""What other numbers are called; they outweigh a dress, but no name."""
BORN = _words("""
born birth birthday birthdate dob d.o.b geboren geb geburt geburtsdatum geburtstag né née nee naissance nacido
nacida nací nacimiento nato nata nascita nascido nascida nascimento geboorte geboortedatum urodzenia urodzony
urodzona ur född født fødselsdato syntynyt syntymäaika cumple cumpleaños
""")
"""Somebody was born on the date that follows."""
LEGAL = _words("""
inc incorporated ltd limited llc llp plc corp corporation company co gmbh ag kg ohg se sa sas sarl srl spa bv
nv ab oy as aps group holding holdings bank university hospital and und et y e of the & sons
""")
"""Forms of companies and small words that a stand-in keeps."""
STREET = _words("""
street st avenue ave road rd boulevard blvd lane ln drive dr court ct place pl square sq terrace way apt
parkway suite unit flat rue de du des la le les calle via viale piazza plaza rua straße strasse weg platz
allee gasse straat laan ul al der den dem am
""")
"""Sorts of streets and small words that a stand-in keeps."""
